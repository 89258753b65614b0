"""Pickles are read without running them, whatever they request."""

import collections
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from scoresde.interop.edm_files import state_dict
from scoresde.interop.pickles import Record, read_pickle

PERSISTENT = "torch_utils.persistence", "_reconstruct_persistent_obj"


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def named(module: str, name: str) -> bytes:
    """The opcodes that push an object by its name."""

    def text(value: str) -> bytes:
        raw = value.encode()
        return b"\x8c" + bytes([len(raw)]) + raw

    return text(module) + text(name) + b"\x93"


def program(body: bytes) -> bytes:
    """A pickle of opcodes."""
    return b"\x80\x04" + body + b"."


def pushed(value) -> bytes:
    """The opcodes that push a value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def touch(marker) -> str:
    """Code that leaves a mark."""
    return f"open({str(marker)!r}, 'w').close()"


def nested(value) -> bytes:
    """The numbers of a tensor as they are in a pickle: bytes of torch.save in its old format."""
    raw = io.BytesIO()
    torch.save(value, raw, _use_new_zipfile_serialization=False)
    return raw.getvalue()


ATTACKS = {
    "os.system": lambda mark: pickle.dumps(Call(os.system, f"touch {mark}")),
    "os.system as posix": lambda mark: program(
        named("posix", "system") + pushed((f"touch {mark}",)) + b"R"
    ),
    "builtins.eval": lambda mark: pickle.dumps(Call(eval, touch(mark))),
    "builtins.exec": lambda mark: pickle.dumps(Call(exec, touch(mark))),
    "__builtin__.eval": lambda mark: pickle.dumps(Call(eval, touch(mark)), protocol=2),
    "builtins.getattr": lambda mark: program(
        named("builtins", "getattr")
        + b"("
        + named("torch.storage", "_load_from_bytes")
        + pushed("__globals__")
        + b"tR"
    ),
    "subprocess.call": lambda mark: pickle.dumps(Call(subprocess.call, ["touch", str(mark)])),
    "subprocess.Popen": lambda mark: pickle.dumps(Call(subprocess.Popen, ["touch", str(mark)])),
    "torch.load": lambda mark: pickle.dumps(Call(torch.load, str(mark))),
    "numpy.load": lambda mark: program(named("numpy", "load") + pushed((str(mark),)) + b"R"),
    "os.path.join": lambda mark: program(named("os", "path.join") + pushed(("a", "b")) + b"R"),
    "torch.nn.modules.module.torch.os.system": lambda mark: program(
        named("torch.nn.modules.module", "torch.os.system") + pushed((f"touch {mark}",)) + b"R"
    ),
    "torch.os.system": lambda mark: program(
        named("torch", "os.system") + pushed((f"touch {mark}",)) + b"R"
    ),
    "io.open": lambda mark: pickle.dumps(Call(open, str(mark), "w")),
    "os.system by INST": lambda mark: b"(S'touch " + str(mark).encode() + b"'\nios\nsystem\n.",
    "os.system by OBJ": lambda mark: program(
        b"(" + named("os", "system") + pushed(f"touch {mark}") + b"o"
    ),
    "os.system by GLOBAL": lambda mark: b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.",
    "torch._utils._rebuild_device_tensor_from_numpy": lambda mark: program(
        named("torch._utils", "_rebuild_device_tensor_from_numpy") + pushed((1,)) + b"R"
    ),
    "os.system in bytes": lambda mark: program(
        named("torch.storage", "_load_from_bytes")
        + pickle.dumps((nested(Call(os.system, f"touch {mark}")),), protocol=4)[2:-1]
        + b"R"
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_run(attack, tmp_path):
    """Files that call functions are refused, and the error names the function."""
    mark, file = tmp_path / "mark", tmp_path / "model.pkl"
    file.write_bytes(ATTACKS[attack](mark))
    name = attack.split()[0].rpartition(".")[2]
    with pytest.raises(ValueError, match=name):
        read_pickle(file)
    assert not mark.exists()


@pytest.mark.parametrize(
    "attack", ["os.system", "builtins.eval", "builtins.exec", "os.system by INST"]
)
def test_attacks_are_attacks(attack, tmp_path):
    """The same files leave their mark when pickle itself reads them."""
    mark = tmp_path / "mark"
    pickle.loads(ATTACKS[attack](mark))
    assert mark.exists()


def test_nested_attack_is_an_attack(tmp_path):
    """The bytes inside a tensor leave their mark when torch reads the whole."""
    mark = tmp_path / "mark"
    raw = io.BytesIO(nested(Call(os.system, f"touch {mark}")))
    torch.load(raw, weights_only=False)
    assert mark.exists()


ALLOWED = [
    PERSISTENT,
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.storage", "_load_from_bytes"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch", "float32"),
    ("torch", "FloatStorage"),
    ("torch.nn.modules.container", "ModuleDict"),
    ("collections", "OrderedDict"),
    ("dnnlib.util", "EasyDict"),
    ("builtins", "set"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
]
ARGUMENTS = [
    (),
    (None,),
    ("os.system",),
    ({"class_name": "A", "state": {"__class__": "os"}},),
    (1, 2, 3, 4, 5, 6, 7),
    ([1], [2]),
    (b"\x80\x04.",),
    ({}, -1, (2, 2), (1, 1), False, None),
    ("O8", False, True),
    ("f8", False, True),
]
STATES = [
    {"__setstate__": 1, "__class__": 2, "value": 3, "state": 4},
    (None, {"value": 1, "__setstate__": 2, "__call__": 3, "__defaults__": (4,), "full_name": 5}),
    (1, (2,), "|O", False, b"abc"),
    (3, "<", None, None, None, -1, -1, 0),
    [1, 2, 3],
]


@pytest.mark.parametrize(("module", "name"), ALLOWED)
def test_stand_ins_bear_anything(module, name, tmp_path):
    """Each stand-in may be called with anything, and given any state, and does not change."""
    file, whole = tmp_path / "attack.pkl", tmp_path / "whole.pkl"
    whole.write_bytes(pickle.dumps(collections.OrderedDict(a=torch.ones(2), b={3}, c=np.ones(2))))
    word = named(module, name)
    bodies = [word + pushed(state) + b"b" for state in STATES]
    for given in ARGUMENTS:
        called = [word + pushed(given) + b"R", word + pushed(given) + b"\x81"]
        called.append(b"(" + word + b"".join(pushed(one) for one in given) + b"o")
        bodies += called + [one + pushed(state) + b"b" for one in called for state in STATES]
        bodies += [one + b"(" + pushed("key") + pushed(given) + b"u" for one in called]
        bodies += [one + b"(" + pushed(given) + b"e" for one in called]
    for body in bodies:
        file.write_bytes(program(body))
        try:
            value = read_pickle(file)
        except ValueError:
            continue
        kinds = Record | dict | set | tuple | str | np.ndarray | int | float | torch.dtype
        assert isinstance(value, kinds)
    after = read_pickle(whole)
    torch.testing.assert_close(after["a"], torch.ones(2))
    assert after["b"] == {3}
    np.testing.assert_array_equal(after["c"], np.ones(2))


def test_a_state_changes_no_class(tmp_path):
    """A state for a class or a function instead of an object is refused."""
    file = tmp_path / "attack.pkl"
    for module, name in ALLOWED:
        for state in STATES[:2]:
            file.write_bytes(program(named(module, name) + pushed(state) + b"b"))
            with pytest.raises(ValueError, match="damaged or no pickle"):
                read_pickle(file)


def test_tensors_stay_in_their_numbers(tmp_path):
    """A tensor that claims more numbers than there are is refused, and not extended."""
    file = tmp_path / "model.pkl"
    raw = nested(torch.arange(4.0)._typed_storage())
    storage = named("torch.storage", "_load_from_bytes") + pickle.dumps((raw,), 4)[2:-1] + b"R"

    def tensor(offset, size, stride) -> bytes:
        rest = b"".join(pushed(one) for one in (offset, size, stride, False, None))
        rebuild = named("torch._utils", "_rebuild_tensor_v2")
        return program(rebuild + b"(" + storage + rest + b"tR")

    file.write_bytes(tensor(1, (3,), (1,)))
    torch.testing.assert_close(read_pickle(file), torch.tensor([1.0, 2.0, 3.0]))
    for claim in [
        (0, (5,), (1,)),
        (2, (3,), (1,)),
        (0, (3,), (2,)),
        (-1, (2,), (1,)),
        (3, (3,), (-1,)),
        (0, (1 << 40,), (0,)),
        (0, (2, 2), (1,)),
        (0.0, (2,), (1,)),
        (0, (True,), (1,)),
    ]:
        file.write_bytes(tensor(*claim))
        with pytest.raises(ValueError, match=r"model\.pkl is damaged"):
            read_pickle(file)


@pytest.fixture
def contents() -> dict:
    """The contents that an honest file may have."""
    shared = [1, 2]
    mapping = collections.OrderedDict(weight=torch.randn(3, 2))
    mapping.attribute = "dropped"  # as in the state dicts of torch
    return {
        "none": None,
        "numbers": (1, 2.5, True, -(1 << 70)),
        "shared": [shared, shared],
        "set": {1, "a"},
        "half": torch.randn(2, 3).half(),
        "transposed": torch.arange(6).reshape(2, 3).T,
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "mapping": mapping,
        "float64": np.sqrt(0.5),
        "array": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "device": torch.device("cuda", 1),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_honest_contents(contents, protocol, tmp_path):
    """Values of every kind are read as plain ones, at each protocol in use."""
    if protocol == 2:  # bytes are then a call of a codec, which is not allowed
        contents = {key: contents[key] for key in ("none", "numbers", "shared", "set", "size")}
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(contents, protocol))
    read = read_pickle(file)
    assert read.keys() == contents.keys()
    assert read["numbers"] == contents["numbers"] and read["none"] is None
    assert read["set"] == {1, "a"} and type(read["set"]) is set
    assert read["shared"][0] == [1, 2] and read["shared"][0] is read["shared"][1]
    assert read["size"] == (1, 2)
    if protocol == 2:
        return
    assert read["dtype"] is torch.float16 and read["device"] == "cuda"
    for key in ("half", "transposed"):
        torch.testing.assert_close(read[key], contents[key], rtol=0, atol=0)
    torch.testing.assert_close(read["parameter"], contents["parameter"].detach(), rtol=0, atol=0)
    torch.testing.assert_close(read["mapping"]["weight"], contents["mapping"]["weight"])
    assert type(read["mapping"]) is dict
    assert type(read["float64"]) is float and read["float64"] == np.sqrt(0.5)
    np.testing.assert_array_equal(read["array"], contents["array"])
    assert read["array"].dtype == contents["array"].dtype


def test_values_that_hold_themselves(tmp_path):
    """Reading cyclic and shared values terminates."""
    file = tmp_path / "model.pkl"
    ring: list = []
    ring.append((ring,))
    file.write_bytes(pickle.dumps(ring))
    read = read_pickle(file)
    assert read[0][0] is read
    deep: tuple = (1,)
    for _ in range(200):
        deep = (deep, deep)
    file.write_bytes(pickle.dumps(deep))
    assert len(read_pickle(file)) == 2


def test_damaged_files(contents, tmp_path):
    """A file that was cut off anywhere is refused with one sentence."""
    file = tmp_path / "model.pkl"
    whole = pickle.dumps(contents)
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model\.pkl is damaged or no pickle") as error:
            read_pickle(file)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_flipped_bytes(contents, tmp_path):
    """A file with single bytes changed is read, or refused with a ValueError."""
    file, chance = tmp_path / "model.pkl", random.Random(0)
    whole = pickle.dumps(contents)
    for _ in range(1500):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] = chance.randrange(256)
        file.write_bytes(damaged)
        try:
            read_pickle(file)
        except ValueError as error:
            assert "model.pkl" in str(error)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        b"PK\x03\x04" + bytes(64),
        b"<!DOCTYPE html><html></html>",
        struct.pack("<Q", 2) + b"{}",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",
        b"\x80\x04Pid\n.",
        b"\x80\x04\x82\x01.",
        b"\x80\xff.",
        pickle.dumps(1) + b"more",
        nested({"a": 1}),
    ],
    ids=lambda raw: repr(raw[:8]),
)
def test_foreign_files(raw, tmp_path):
    """Files of other formats are refused with one sentence."""
    file = tmp_path / "model.pkl"
    file.write_bytes(raw)
    with pytest.raises(ValueError, match=r"model\.pkl"):
        read_pickle(file)


def test_random_bytes(tmp_path):
    """Files of random bytes are refused with one sentence too."""
    file, chance = tmp_path / "model.pkl", random.Random(0)
    for _ in range(300):
        file.write_bytes(b"\x80\x04" + chance.randbytes(chance.randrange(1, 200)))
        with pytest.raises(ValueError, match=r"model\.pkl"):
            read_pickle(file)


def test_no_file(tmp_path):
    """A missing file is reported as missing, not as a file of another format."""
    with pytest.raises(FileNotFoundError):
        read_pickle(tmp_path / "model.pkl")


def test_modules(tmp_path, monkeypatch):
    """A module with its source in the file is a record, and the source is not run."""
    mark, file = tmp_path / "mark", tmp_path / "model.pkl"
    package, persistence = types.ModuleType("torch_utils"), types.ModuleType(PERSISTENT[0])

    def reconstruct(meta):
        exec(meta["module_src"])

    reconstruct.__module__, reconstruct.__qualname__ = PERSISTENT
    setattr(persistence, PERSISTENT[1], reconstruct)
    monkeypatch.setitem(sys.modules, "torch_utils", package)
    monkeypatch.setitem(sys.modules, PERSISTENT[0], persistence)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleDict(
                {"a": torch.nn.Linear(2, 3), "b": torch.nn.Linear(3, 1)}
            )
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.register_parameter("none", None)
            self.register_buffer("kept", torch.arange(3.0))
            self.register_buffer("left", torch.arange(3.0), persistent=False)
            self.number = 4

        def __reduce__(self):
            meta = {"type": "class", "version": 6, "class_name": "Net", "state": self.__dict__}
            return reconstruct, (meta | {"module_src": touch(mark)},)

    net = Net()
    raw = pickle.dumps({"ema": net})
    file.write_bytes(raw)
    record = read_pickle(file)["ema"]
    assert record.class_name == "Net" and record.state["number"] == 4
    assert record.state["_modules"]["blocks"].class_name == (
        "torch.nn.modules.container.ModuleDict"
    )
    found, expected = state_dict(record), net.state_dict()
    assert found.keys() == expected.keys()
    for key in found:
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
        assert not found[key].requires_grad
    assert not mark.exists()
    pickle.loads(raw)
    assert mark.exists()  # the source would have run


def test_a_record_that_is_no_module():
    """Objects that are no modules, or contain themselves, have no state dict."""
    empty = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    with pytest.raises(ValueError, match="no module but of Loss"):
        state_dict(Record("Loss", {"sigma_data": 0.5}))
    with pytest.raises(ValueError, match="weight is no tensor but of str"):
        state_dict(Record("Net", empty | {"_parameters": {"weight": "a"}}))
    ring = Record("Net", dict(empty))
    ring.state["_modules"] = {"self": ring}
    with pytest.raises(ValueError, match="the module self is there twice"):
        state_dict(ring)
