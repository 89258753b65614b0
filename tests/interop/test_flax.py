"""Checkpoints of JAX: the decoder compared with msgpack's specification, the names with literals.

Nothing here needs JAX. `pack` writes msgpack as flax does; below are bytes that flax itself has
written, which are the same in 0.3.1 and 0.12.
"""

import json
import re
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde.interop.flax import flatten, is_flax, read_flax, rows
from scoresde.interop.msgpack import DTYPES, MAX_DEPTH, Ext, decode
from scoresde.interop.table import read, write
from scoresde.models import UNet
from scoresde.sde import expand
from tests.composed import composed
from tests.models.test_unet import GOLDEN, GOLDEN_NAMES, golden_net, needs_golden, tiny

# --- an encoder


def pack(value: Any) -> bytes:
    """Encode a value as msgpack, with 32 bits for every length and 64 for every whole number."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return struct.pack(">Bq", 0xD3, value)
        case float():
            return struct.pack(">Bd", 0xCB, value)
        case str():
            return struct.pack(">BI", 0xDB, len(value.encode())) + value.encode()
        case bytes():
            return struct.pack(">BI", 0xC6, len(value)) + value
        case list():
            return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(pack, value))
        case dict():
            items = b"".join(pack(key) + pack(item) for key, item in value.items())
            return struct.pack(">BI", 0xDF, len(value)) + items
        case complex():
            return extension(2, pack([value.real, value.imag]))
        case Tensor():
            return extension(1, payload(value))
    raise TypeError(type(value))


def extension(code: int, data: bytes) -> bytes:
    return struct.pack(">BIb", 0xC9, len(data), code) + data


def payload(tensor: Tensor) -> bytes:
    raw = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return pack([list(tensor.shape), str(tensor.dtype).removeprefix("torch."), raw])


def nested(flat: dict[str, Tensor]) -> dict[str, Any]:
    """The tree of parameters whose names are joined by `/`."""
    tree: dict[str, Any] = {}
    for name, tensor in flat.items():
        *path, last = name.split("/")
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = tensor
    return tree


def assert_same(actual: Any, expected: Any) -> None:
    assert type(actual) is type(expected)
    if isinstance(expected, Tensor):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert actual == expected


# --- the decoder


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xc0", None),
        (b"\xc2", False),
        (b"\xc3", True),
        (b"\x00", 0),
        (b"\x7f", 127),
        (b"\xe0", -32),
        (b"\xff", -1),
        (b"\xcc\xff", 255),
        (b"\xcd\x01\x00", 256),
        (b"\xce\xff\xff\xff\xff", 2**32 - 1),
        (b"\xcf" + b"\xff" * 8, 2**64 - 1),
        (b"\xd0\x80", -128),
        (b"\xd1\x80\x00", -(2**15)),
        (b"\xd2\x80\x00\x00\x00", -(2**31)),
        (b"\xd3\x80" + b"\x00" * 7, -(2**63)),
        (b"\xca\x3f\xc0\x00\x00", 1.5),
        (b"\xcb\xbf\xb9\x99\x99\x99\x99\x99\x9a", -0.1),
        (b"\xa0", ""),
        (b"\xa3\xce\xb1t", "αt"),
        (b"\xbf" + b"x" * 31, "x" * 31),
        (b"\xd9\x01a", "a"),
        (b"\xda\x00\x01a", "a"),
        (b"\xdb\x00\x00\x00\x01a", "a"),
        (b"\xc4\x02\x00\xff", b"\x00\xff"),
        (b"\xc5\x00\x01\x07", b"\x07"),
        (b"\xc6\x00\x00\x00\x00", b""),
        (b"\x90", []),
        (b"\x92\x01\x91\xc0", [1, [None]]),
        (b"\xdc\x00\x01\x05", [5]),
        (b"\xdd\x00\x00\x00\x02\x05\x06", [5, 6]),
        (b"\x80", {}),
        (b"\x82\xa1a\x01\xa1b\x80", {"a": 1, "b": {}}),
        (b"\xde\x00\x01\x07\xc3", {7: True}),
        (b"\xdf\x00\x00\x00\x01\xc4\x01k\x90", {b"k": []}),
        (b"\xd4\x05a", Ext(5, b"a")),
        (b"\xd5\x05ab", Ext(5, b"ab")),
        (b"\xd6\xff\x00\x00\x00\x01", Ext(-1, b"\x00\x00\x00\x01")),  # a timestamp
        (b"\xd7\x7fabcdefgh", Ext(127, b"abcdefgh")),
        (b"\xd8\x80" + b"0123456789abcdef", Ext(-128, b"0123456789abcdef")),
        (b"\xc7\x00\x09", Ext(9, b"")),
        (b"\xc8\x00\x01\x09z", Ext(9, b"z")),
        (b"\xc9\x00\x00\x00\x01\x09z", Ext(9, b"z")),
    ],
)
def test_every_type_of_the_specification(data: bytes, value: Any) -> None:
    for form in (data, bytearray(data), memoryview(data)):
        assert_same(decode(form), value)


WRITTEN_BY_FLAX = (
    b"\x87\xa4step\xc7\x0e\x01\x93\x90\xa5int32\xc4\x04\x07\x00\x00\x00"
    b"\xa2lr\xd8\x03\x93\x90\xa7float32\xc4\x04\x00\x00\x00?"
    b"\xa1z\xc7\x13\x02\x92\xcb?\xf0\x00\x00\x00\x00\x00\x00\xcb\xc0\x00\x00\x00\x00\x00\x00\x00"
    b"\xa1w\xc7\x15\x01\x93\x92\x01\x03\xa8bfloat16\xc4\x06\x80?\x00@@@"
    b"\xa1e\xc7\x0e\x01\x93\x92\x00\x02\xa7float64\xc4\x00"
    b"\xa1n\xc0\xa1t\x82\xa10\x01\xa11\xa1a"
)
IN_CHUNKS = (
    b"\x81\xa3big\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x82\xa10\x02\xa11\x03"
    b"\xa6chunks\x82\xa10\xc7\x13\x01\x93\x91\x04\xa5int16\xc4\x08\x00\x00\x01\x00\x02\x00\x03\x00"
    b"\xa11\xc7\x0f\x01\x93\x91\x02\xa5int16\xc4\x04\x04\x00\x05\x00"
)


def test_what_flax_has_written() -> None:
    expected = {
        "step": torch.tensor(7, dtype=torch.int32),
        "lr": 0.5,
        "z": 1 - 2j,
        "w": torch.tensor([[1, 2, 3]], dtype=torch.bfloat16),
        "e": torch.zeros(0, 2, dtype=torch.float64),
        "n": None,
        "t": {"0": 1, "1": "a"},
    }
    assert_same(decode(WRITTEN_BY_FLAX), expected)
    assert_same(decode(IN_CHUNKS), {"big": torch.arange(6, dtype=torch.int16).reshape(2, 3)})


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 4), (0,), (3, 0, 2)])
def test_arrays_of_every_kind_come_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(50).abs()
    array = numbers.to(dtype)
    for before in range(9):  # at every alignment
        state = {"x" * before: [array, before / 3, {"again": array}]}
        assert_same(decode(bytearray(pack(state))), state)
        decoded = decode(pack(state))
        assert_same(decoded, state)
        assert decoded["x" * before][0].data_ptr() % dtype.itemsize == 0


def test_aligned_arrays_share_writable_memory() -> None:
    data = bytearray(pack(torch.arange(8, dtype=torch.uint8)))
    array = decode(data)
    data[-1] = 99
    assert array.tolist() == [0, 1, 2, 3, 4, 5, 6, 99]


def test_bytes_other_than_0_and_1_are_true() -> None:
    flags = decode(array_of([3], "bool", b"\x00\x02\xff"))
    assert flags.view(torch.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize("data", [WRITTEN_BY_FLAX, IN_CHUNKS, pack([{"k": torch.ones(2)}, 1.5])])
def test_truncation_anywhere_is_one_sentence(data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(ValueError, match=r"^the bytes end too early, \d+ are left of \d+"):
            decode(data[:size])
    with pytest.raises(ValueError, match=re.escape(f"go on after their value, to {len(data) + 1}")):
        decode(data + b"\x00")


def test_random_and_damaged_bytes_raise_nothing_but_value_errors() -> None:
    generator = np.random.default_rng(0)
    refused = 0
    for trial in range(20_000):
        if trial % 2:
            data = bytearray(generator.bytes(int(generator.integers(0, 60))))
        else:
            data = bytearray((WRITTEN_BY_FLAX, IN_CHUNKS)[trial // 2 % 2])
            for place in generator.integers(0, len(data), generator.integers(1, 4)):
                data[place] = generator.integers(0, 256)
        try:
            decode(data)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 10_000


def test_extensions_in_extensions_are_bounded() -> None:
    data = b"\xc0"
    for _ in range(MAX_DEPTH + 1):
        data = extension(1, data)
    with pytest.raises(ValueError, match=f"nest more than {MAX_DEPTH} deep"):
        decode(data)


ROWS = {"0": torch.ones(4), "1": torch.ones(2)}


def in_chunks(**fields: Any) -> bytes:
    whole = {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 3}, "chunks": ROWS}
    return pack({key: value for key, value in (whole | fields).items() if value is not ...})


def array_of(shape: Any, kind: Any, raw: Any) -> bytes:
    return extension(1, pack([shape, kind, raw]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the bytes end too early, 0 are left of 1 (at 0)"),
        (b"\xc1", "the bytes have the tag 0xc1, which msgpack does not use (at 1)"),
        (b"\xdd\xff\xff\xff\xff\x00", "1 are left of 4294967295 (at 5)"),
        (b"\xdf\xff\xff\xff\xff\x00", "1 are left of 8589934590 (at 5)"),
        (b"\xc6\xff\xff\xff\xff\x00", "1 are left of 4294967295 (at 5)"),
        (b"\xa2\xff\xff", "have text that is not UTF-8"),
        (b"\x81\x90\x01", "a repeated key, or one that is no name or number"),
        (b"\x82\xa1a\x01\xa1a\x02", "a repeated key, or one that is no name or number"),
        (b"\x91" * (MAX_DEPTH + 1) + b"\x01", f"nest more than {MAX_DEPTH} deep"),
        (b"\x91" * 100_000, f"nest more than {MAX_DEPTH} deep"),
        (array_of([1], "object", b"12345678"), "have an array of 'object', allowed are bool, "),
        (array_of([1], "V8", b"12345678"), "have an array of 'V8', allowed are "),
        (array_of([1], "float128", b"0" * 16), "have an array of 'float128', allowed are "),
        (array_of([2], "float32", b"1234"), "float32 whose shape does not fit its 4 bytes"),
        (array_of([0], "float32", b"1234"), "float32 whose shape does not fit its 4 bytes"),
        (array_of([2**63 - 1] * 4, "int8", b"1"), "a shape that is no list of sizes"),
        (array_of([0, 2**62, 4], "int8", b""), "a shape that is no list of sizes"),
        (array_of([1] * 33, "int8", b"1"), "a shape that is no list of sizes"),
        (array_of([-1, -1], "int8", b"1"), "a shape that is no list of sizes"),
        (array_of([True], "int8", b"1"), "a shape that is no list of sizes"),
        (array_of([1.0], "int8", b"1"), "a shape that is no list of sizes"),
        (array_of({}, "int8", b"1"), "not a shape, a dtype and bytes"),
        (array_of([1], ["int8"], b"1"), "not a shape, a dtype and bytes"),
        (array_of([1], "int8", "1"), "not a shape, a dtype and bytes"),
        (extension(1, pack([1, 2])), "not a shape, a dtype and bytes"),
        (extension(1, payload(torch.ones(1)) + b"\x00"), "go on after their value"),
        (extension(2, pack([1.0])), "a complex number that is not two numbers"),
        (extension(3, payload(torch.ones(2))), "a scalar of 2 numbers"),
        (in_chunks(shape=...), "without a shape or without chunks"),
        (in_chunks(chunks=...), "without a shape or without chunks"),
        (in_chunks(shape=[2, 3]), "without a shape or without chunks"),
        (in_chunks(chunks={"0": ROWS["0"], "2": ROWS["1"]}), "not numbered from 0"),
        (in_chunks(chunks={}), "in chunks that do not fit its shape"),
        (in_chunks(shape={"0": 7}), "in chunks that do not fit its shape"),
        (in_chunks(shape={"0": "6"}), "a shape that is no list of sizes"),
        (in_chunks(chunks={"0": torch.ones(2, 3)}), "not vectors of one dtype"),
        (in_chunks(chunks={"0": ROWS["0"], "1": ROWS["1"].int()}), "not vectors of one dtype"),
        (in_chunks(chunks={"0": 6}), "not vectors of one dtype"),
    ],
)
def test_foreign_bytes_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        decode(data)


# --- checkpoints


def checkpoint(params: dict[str, Tensor], mean: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """A state of the original code, with the parameters by their joined names."""
    tree = nested(params)
    moments = {"grad_ema": tree, "grad_sq_ema": tree}
    return {
        "step": torch.tensor(7, dtype=torch.int32),
        "optimizer": {
            "target": tree,
            "state": {"step": torch.tensor(7), "param_states": moments},
        },
        "lr": 2e-4,
        "model_state": {},
        "ema_rate": 0.999,
        "params_ema": None if mean is None else nested(mean),
        "rng": torch.tensor([0, 42], dtype=torch.uint32),
    }


def small_map(state: dict[str, Any]) -> bytes:
    """A state with the short map and the short keys that flax writes at the top level."""
    items = [bytes([0xA0 + len(key)]) + key.encode() + pack(state[key]) for key in state]
    return bytes([0x80 + len(items)]) + b"".join(items)


@needs_golden
@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_networks_pass_through_a_flax_checkpoint(name: str, tmp_path: Path) -> None:
    config = json.loads((GOLDEN / "networks.json").read_text())[name]
    saved = torch.load(GOLDEN / f"{name}.pth", weights_only=True)
    arrays = np.load(GOLDEN / f"{name}.npz")
    net = golden_net(config)
    table = rows(net)

    tensors = {key.removeprefix("module."): value for key, value in saved["model"].items()}
    del tensors["sigmas"]
    frequencies = tensors.pop("all_modules.0.W", None)
    named = {}
    for output, source in (
        ("output", list(tensors.values())),
        ("output_ema", saved["ema"]["shadow_params"]),
    ):
        ours = dict(zip((key for key, _ in net.named_parameters()), source, strict=True))
        if frequencies is not None:
            ours["embedding.embed.W"] = frequencies
        named[output] = write(table, ours)
    for key, tensor in named["output"].items():
        if re.search(r"GroupNorm_\d+/(scale|bias)$", key):
            named["output"][key] = tensor[None, None, None]  # as in flax 0.3
    path = tmp_path / "checkpoint_7"
    path.write_bytes(small_map(checkpoint(named["output"], named["output_ema"])))

    assert is_flax(path)
    state = read_flax(path)
    assert state.step == 7
    assert state.params_ema is not None
    ve = config["training"]["sde"] == "vesde"
    x, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["labels"])
    for output, params in (("output", state.params), ("output_ema", state.params_ema)):
        with torch.no_grad():
            for tensor in net.state_dict().values():
                tensor.fill_(torch.nan)
            net.load_state_dict(read(table, flatten(params), net.state_dict(), path))
            y = net(x if config["data"]["centered"] else 2 * x - 1, labels.log() if ve else labels)
        if config["model"]["scale_by_sigma"]:
            y = y / expand(labels, y)
        expected = torch.from_numpy(arrays[output])
        scale = expected.abs().amax((1, 2, 3), keepdim=True)
        torch.testing.assert_close(y / scale, expected / scale, rtol=0, atol=1e-5)


def test_a_tensor_of_its_own_for_every_parameter() -> None:
    data = bytearray(pack({"Conv_0": {"bias": torch.zeros(4, dtype=torch.uint8)}}))
    flat = flatten(decode(data))
    data[-1] = 1
    assert flat["Conv_0/bias"].tolist() == [0, 0, 0, 0]


def test_normalisations_of_old_flax_become_vectors_and_nothing_else() -> None:
    norm = {"scale": torch.ones(1, 1, 1, 8), "bias": torch.ones(8)}
    odd = {"scale": torch.ones(2, 1, 1, 8)}
    flat = flatten(
        {"GroupNorm_0": norm, "Block_0": {"GroupNorm_12": norm, "GroupNorm_1": odd}, "Norm_0": norm}
    )
    assert {name: tuple(tensor.shape) for name, tensor in flat.items()} == {
        "GroupNorm_0/scale": (8,),
        "GroupNorm_0/bias": (8,),
        "Block_0/GroupNorm_12/scale": (8,),
        "Block_0/GroupNorm_12/bias": (8,),
        "Block_0/GroupNorm_1/scale": (2, 1, 1, 8),
        "Norm_0/scale": (1, 1, 1, 8),
        "Norm_0/bias": (8,),
    }
    with pytest.raises(ValueError, match=re.escape("parameter a/b is no array: float")):
        flatten({"a": {"b": 1.0}})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"step": 1}, "lacks a step, or an optimizer"),
        ({"step": 1, "optimizer": {"state": {}}}, "lacks a step, or an optimizer"),
        ({"optimizer": {"target": {}}}, "lacks a step, or an optimizer"),
        ({"step": "1", "optimizer": {"target": {}}}, "its step is no whole number"),
        ({"step": torch.tensor(1.0), "optimizer": {"target": {}}}, "its step is no whole number"),
        ({"step": torch.ones(2), "optimizer": {"target": {}}}, "its step is no whole number"),
        ({"step": 1, "optimizer": {"target": {}}, "params_ema": 3}, "params_ema are no parameters"),
        ([1, 2], "lacks a step, or an optimizer"),
    ],
)
def test_other_states_are_refused(state: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_1"
    path.write_bytes(pack(state))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_flax(path)
    assert str(caught.value).startswith(f"{path} is not a checkpoint of score_sde: ")


def test_a_state_without_a_mean_and_with_a_plain_step(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_1"
    state = {"step": 3, "optimizer": {"target": {"a": torch.ones(1)}}}
    path.write_bytes(pack(state))
    assert_same(
        read_flax(path)._asdict(), {"step": 3, "params": {"a": torch.ones(1)}, "params_ema": None}
    )


@pytest.mark.parametrize(
    ("data", "flax"),
    [
        (WRITTEN_BY_FLAX, True),
        (b"\x87\xa4step\x01", True),
        (b"\x87\xa4st", False),
        (b"\x80\x02}q\x00", False),  # a pickle
        (b"PK\x03\x04", False),  # a file of torch
        (b"\x88\xa4\x00\x00\x00\x00\x00\x00{", False),  # safetensors
        (b"", False),
    ],
)
def test_the_first_bytes_distinguish_flax_from_others(
    data: bytes, flax: bool, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint_1"
    assert not is_flax(path)
    assert not is_flax(tmp_path)
    path.write_bytes(data)
    assert is_flax(path) == flax


def test_files_that_are_cut_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_1"
    with pytest.raises(FileNotFoundError):
        read_flax(path)
    for data in (b"", WRITTEN_BY_FLAX[:-1], b"PK\x03\x04" + b"\x00" * 20):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=re.escape(f"{path} is not a checkpoint of flax: ")):
            read_flax(path)


# --- names and layouts


def published(name: str, size: int) -> tuple[UNet, dict[str, tuple[int, ...]]]:
    """A published network on the meta device, and the shapes that flax has for it."""
    options = composed("model", name)["net"]
    del options["_target_"]
    with torch.device("meta"):
        net = UNet(shape=(3, size, size), **options)
    state = write(rows(net), net.state_dict())
    return net, {name: tuple(tensor.shape) for name, tensor in state.items()}


def modules(names: Iterable[str]) -> Counter[str]:
    """The numbers of modules of each class in the network itself."""
    found = {name.split("/")[0] for name in names}
    return Counter(name.rpartition("_")[0] for name in found)


NCSNPP_VE = {  # 32 px: 4 levels, 4 blocks each, attention at 16 px
    "GaussianFourierProjection_0/W": (128,),
    "Dense_0/kernel": (256, 512),
    "Dense_1/kernel": (512, 512),
    "Conv_0/kernel": (3, 3, 3, 128),
    "ResnetBlockBigGANpp_0/GroupNorm_0/scale": (128,),
    "ResnetBlockBigGANpp_0/Dense_0/kernel": (512, 128),
    "ResnetBlockBigGANpp_4/Conv_2/kernel": (1, 1, 128, 128),  # the first step down
    "Downsample_0/Conv2d_0/weight": (3, 3, 3, 128),
    "ResnetBlockBigGANpp_5/Conv_0/kernel": (3, 3, 128, 256),
    "ResnetBlockBigGANpp_5/Conv_2/kernel": (1, 1, 128, 256),
    "AttnBlockpp_0/GroupNorm_0/bias": (256,),
    "AttnBlockpp_3/NIN_3/W": (256, 256),
    "ResnetBlockBigGANpp_9/Conv_2/kernel": (1, 1, 256, 256),  # the second step down
    "Downsample_1/Conv2d_0/weight": (3, 3, 128, 256),
    "Downsample_2/Conv2d_0/bias": (256,),
    # 4 + 1 + 4 + 1 + 4 + 1 + 4 blocks on the way down, 19 and 20 in the middle, then 5 a level
    "ResnetBlockBigGANpp_20/Conv_1/kernel": (3, 3, 256, 256),
    "AttnBlockpp_4/NIN_0/b": (256,),
    "ResnetBlockBigGANpp_21/Conv_0/kernel": (3, 3, 512, 256),
    "ResnetBlockBigGANpp_26/Conv_2/kernel": (1, 1, 256, 256),  # the first step up
    "ResnetBlockBigGANpp_37/Conv_0/kernel": (3, 3, 384, 256),  # 128 from the first step down
    "AttnBlockpp_5/NIN_2/W": (256, 256),
    "ResnetBlockBigGANpp_38/Conv_2/kernel": (1, 1, 256, 256),  # the last step up
    "ResnetBlockBigGANpp_39/Conv_0/kernel": (3, 3, 384, 128),
    "ResnetBlockBigGANpp_43/Conv_0/kernel": (3, 3, 256, 128),
    "GroupNorm_0/scale": (128,),
    "Conv_1/kernel": (3, 3, 128, 3),
}
NCSNPP_256 = {  # 7 levels, 2 blocks each, attention at 16 px, pyramids of images
    "Conv_0/kernel": (3, 3, 3, 128),
    "Combine_0/Conv_0/kernel": (1, 1, 3, 128),
    "Combine_5/Conv_0/kernel": (1, 1, 3, 256),
    "GroupNorm_0/scale": (256,),  # of the lowest level
    "Conv_1/kernel": (3, 3, 256, 3),
    "GroupNorm_6/bias": (128,),
    "Conv_7/kernel": (3, 3, 128, 3),
}
DDPM = {  # 4 levels, 2 blocks each, attention at 16 px
    "Conv_0/kernel": (3, 3, 3, 128),
    "Downsample_0/Conv_0/kernel": (3, 3, 128, 128),
    "ResnetBlockDDPM_2/NIN_0/W": (128, 256),
    "ResnetBlockDDPM_10/NIN_0/b": (256,),  # the first on the way up, after 8 and 2
    "AttnBlock_2/NIN_3/W": (256, 256),
    "Upsample_2/Conv_0/bias": (256,),
    "ResnetBlockDDPM_21/NIN_0/W": (256, 128),
    "Conv_1/bias": (3,),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "expected", "counts", "size_of_all"),
    [
        (
            "ncsnpp_ve",
            32,
            NCSNPP_VE,
            {
                "GaussianFourierProjection": 1,
                "Dense": 2,
                "Conv": 2,
                "ResnetBlockBigGANpp": 4 * 4 + 3 + 2 + 4 * 5 + 3,
                "AttnBlockpp": 4 + 1 + 1,
                "Downsample": 3,
                "GroupNorm": 1,
            },
            62_758_787 + 128,
        ),
        (
            "ncsnpp_256",
            256,
            NCSNPP_256,
            {
                "GaussianFourierProjection": 1,
                "Dense": 2,
                "Conv": 1 + 7,
                "ResnetBlockBigGANpp": 7 * 2 + 6 + 2 + 7 * 3 + 6,
                "AttnBlockpp": 2 + 1 + 1,
                "Combine": 6,
                "GroupNorm": 7,
            },
            65_574_421 + 128,
        ),
        (
            "ddpm",
            32,
            DDPM,
            {
                "Dense": 2,
                "Conv": 2,
                "ResnetBlockDDPM": 4 * 2 + 2 + 4 * 3,
                "AttnBlock": 2 + 1 + 1,
                "Downsample": 3,
                "Upsample": 3,
                "GroupNorm": 1,
            },
            35_218_947,
        ),
    ],
)
def test_names_and_shapes_of_published_networks(
    name: str,
    size: int,
    expected: dict[str, tuple[int, ...]],
    counts: dict[str, int],
    size_of_all: int,
) -> None:
    net, shapes = published(name, size)
    assert {key: shapes.get(key) for key in expected} == expected
    assert modules(shapes) == counts
    for kind, count in counts.items():
        numbered = {f"{kind}_{number}" for number in range(count)}
        assert numbered == {key.split("/")[0] for key in shapes if key.startswith(f"{kind}_")}
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == size_of_all
    assert sorted(ours for row in rows(net) for ours in row.ours) == sorted(net.state_dict())


PLACES = {
    "Dense_0": "embedding.dense_0",
    "Dense_1": "embedding.dense_1",
    "Conv_0": "conv_in",
    "ResnetBlockBigGANpp_0": "down.0.stages.0.block",
    "ResnetBlockBigGANpp_1": "down.0.step",
    "Downsample_0": "down.0.pyramid.resample",
    "ResnetBlockBigGANpp_2": "down.1.stages.0.block",
    "AttnBlockpp_0": "down.1.stages.0.attention",
    "ResnetBlockBigGANpp_3": "middle_0.block",
    "AttnBlockpp_1": "middle_0.attention",
    "ResnetBlockBigGANpp_4": "middle_1.block",
    "ResnetBlockBigGANpp_5": "up.0.stages.0.block",
    "ResnetBlockBigGANpp_6": "up.0.stages.1.block",
    "AttnBlockpp_2": "up.0.stages.1.attention",
    "ResnetBlockBigGANpp_7": "up.0.step",
    "ResnetBlockBigGANpp_8": "up.1.stages.0.block",
    "ResnetBlockBigGANpp_9": "up.1.stages.1.block",
    "GroupNorm_0": "head.0",
    "Conv_1": "head.2",
}
INSIDE = {
    "ResnetBlockBigGANpp": {
        "GroupNorm_0": "branch.norm_0",
        "Conv_0": "branch.conv_0",
        "Dense_0": "branch.dense",
        "GroupNorm_1": "branch.norm_1",
        "Conv_1": "branch.conv_1",
        "Conv_2": "shortcut",
    },
    "AttnBlockpp": {
        "GroupNorm_0": "norm",
        "NIN_0": "q",
        "NIN_1": "k",
        "NIN_2": "v",
        "NIN_3": "out",
    },
    "Downsample": {"Conv2d_0": "conv"},
}
LAST = {"kernel": "weight", "weight": "weight", "scale": "weight", "W": "weight", "b": "bias"}


def test_every_tensor_has_its_place() -> None:
    net = tiny(fir=True, progressive_input="residual", embedding_type="fourier")
    for row in rows(net):
        top, *inside, last = row.theirs.split("/")
        if top == "GaussianFourierProjection_0":
            assert row.ours == ("embedding.embed.W",)
            continue
        path = [PLACES[top], *(INSIDE[top.rpartition("_")[0]][name] for name in inside)]
        assert row.ours == (".".join([*path, LAST.get(last, last)]),)
    assert set(PLACES) < {row.theirs.split("/")[0] for row in rows(net)}


def test_modules_without_parameters_are_counted() -> None:
    # Down: step, pyramid, step, pyramid. Up: step, pyramid, step, pyramid; a pyramid of images has
    # no parameters, so that the numbers of the steps have gaps.
    pyramids = {"progressive": "output_skip", "progressive_input": "input_skip"}
    net = tiny(shape=(3, 8, 8), ch_mult=(1, 1, 1), resblock_type="ddpm", **pyramids)
    named = {row.theirs.split("/")[0] for row in rows(net)}
    found = {name for name in named if name.startswith(("Downsample", "Upsample", "Combine"))}
    steps = {"Downsample_0", "Downsample_2", "Upsample_0", "Upsample_2"}
    assert found == steps | {"Combine_0", "Combine_1"}
    assert {name.rpartition("_")[0] for name in named if "Block" in name} == {
        "ResnetBlockDDPMpp",
        "AttnBlockpp",
    }


@pytest.mark.parametrize(("fir", "kind"), [(True, "Conv2d_0/weight"), (False, "Conv_0/kernel")])
def test_learned_resampling(fir: bool, kind: str) -> None:
    residual = {"progressive": "residual", "progressive_input": "residual"}
    net = tiny(nf=6, channels_per_group=1, fir=fir, ch_mult=(1, 2), **residual)
    shapes = {
        name: tuple(tensor.shape) for name, tensor in write(rows(net), net.state_dict()).items()
    }
    assert shapes[f"Downsample_0/{kind}"] == (3, 3, 3, 6)
    assert shapes[f"Upsample_0/{kind}"] == (3, 3, 12, 6)
    assert shapes["Conv_1/kernel"] == (3, 3, 12, 12)  # where the output pyramid starts
    assert modules(shapes)["Upsample"] == modules(shapes)["Downsample"] == 1


def test_layouts_are_those_of_flax() -> None:
    # Every layer is evaluated on channels last, with flax's tensors in flax's order of axes.
    generator = torch.Generator().manual_seed(0)
    net = tiny(resblock_type="ddpm", ch_mult=(1, 2)).double().eval()
    state = write(rows(net), net.state_dict())
    x = torch.randn(2, 5, 6, 3, generator=generator, dtype=torch.float64)
    kernel, bias = state["Conv_0/kernel"], state["Conv_0/bias"]
    padded = torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1))
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (B, H, W, in, height, width)
    expected = torch.einsum("bxyihw,hwio->bxyo", windows, kernel) + bias
    actual = net.conv_in(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)

    embedding = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    expected = embedding @ state["Dense_0/kernel"] + state["Dense_0/bias"]
    assert net.embedding is not None
    torch.testing.assert_close(net.embedding.dense_0(embedding), expected, rtol=0, atol=1e-12)

    pixels = torch.randn(2, 5, 6, 8, generator=generator, dtype=torch.float64)
    block = "ResnetBlockDDPMpp_1/NIN_0"
    expected = pixels @ state[f"{block}/W"] + state[f"{block}/b"]
    shortcut: Any = net.get_submodule("down.1.stages.0.block.shortcut")
    torch.testing.assert_close(shortcut(pixels), expected, rtol=0, atol=1e-12)


def test_an_upsampling_convolution_correlates_with_the_kernel_of_flax() -> None:
    # The filter has one tap, so that it blurs nothing and its gain is 4 alone.
    options = {"fir": True, "fir_kernel": (0, 1), "progressive": "residual"}
    net = tiny(nf=4, channels_per_group=1, **options).double()
    up: Any = net.get_submodule("up.1.pyramid.resample")
    kernel = write(rows(net), net.state_dict())["Upsample_0/Conv2d_0/weight"]
    x = torch.randn(1, 3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spread = torch.zeros(1, 2 * 3 + 3, 2 * 5 + 3, 8, dtype=torch.float64)
    spread[:, 2:-2:2, 2:-2:2] = x
    windows = spread.unfold(1, 3, 1).unfold(2, 3, 1)  # (B, H, W, in, height, width)
    expected = 4 * torch.einsum("bxyihw,hwio->bxyo", windows, kernel)[:, :-1, :-1] + up.conv.bias
    actual = up(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
