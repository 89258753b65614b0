"""Reading pickled models of other projects without running anything that is in the file.

A pickle is a program: it names functions and calls them. Here each name that a file of weights has
a use for stands for something inert of this module, and each other name is refused. What the
program can then do is to build dicts, lists, tensors, and records of objects.

The program may call whatever it was given, with any arguments, and hand any state to it (the
opcodes REDUCE, NEWOBJ, OBJ, INST and BUILD). Therefore no function and no class of another module
is given to it, and every stand-in checks its arguments. Each has a `__setstate__`, without which
BUILD would set any attribute of it, also of a class or a function that all readers share.
"""

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import Unpickler
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Record:
    """An object of a pickle, of which only the name of the class and the state are kept.

    Args:
        class_name: Name of its class; with the module, where that is one of torch.
        state: Its attributes.
    """

    class_name: str
    state: dict[str, Any]


def read_pickle(path: str | Path) -> Any:
    """The contents of a pickle: plain values, dicts, lists, tensors, arrays and `Record`s.

    Args:
        path: The file.

    Raises:
        ValueError: It names something that a file of weights has no use for, or it is damaged, or
            no pickle.
    """
    with open(path, "rb") as raw:
        try:
            value = _plain(_Reader(raw, path).load(), {})
            rest = raw.read(1)
        except _Refused:
            raise
        except Exception as error:  # bytes that are no pickle can fail in any way
            sentence = " ".join(str(error).split())[:600] or type(error).__name__
            raise ValueError(f"{path} is damaged or no pickle of weights: {sentence}") from error
    if rest:
        raise ValueError(f"{path} goes on after its pickle ends; it is of another format")
    return value


def state_dict(record: Record) -> dict[str, Tensor]:
    """The tensors of a module by their names, as its `state_dict()` would have given them.

    Args:
        record: Record of a module, with all modules that are in it.

    Raises:
        ValueError: It is no module, holds something else than tensors, or holds a module twice.
    """
    found: dict[str, Tensor] = {}
    _collect(record, "", found, set())
    return found


def _collect(record: Any, prefix: str, found: dict[str, Tensor], seen: set[int]) -> None:
    # A module that holds itself would never end, and twice two of two of two … hardly.
    if id(record) in seen:
        raise ValueError(f"the module {prefix.rstrip('.')} is there twice")
    seen.add(id(record))
    kinds = ("_parameters", "_buffers", "_modules")
    if not isinstance(record, Record) or not all(
        isinstance(record.state.get(kind), Mapping) for kind in kinds
    ):
        name = record.class_name if isinstance(record, Record) else type(record).__name__
        raise ValueError(f"{prefix.rstrip('.') or 'the object'} is no module but of {name}")
    parameters, buffers, modules = (record.state[kind] for kind in kinds)
    left_out = record.state.get("_non_persistent_buffers_set") or ()
    kept = {name: value for name, value in buffers.items() if name not in left_out}
    for name, value in [*parameters.items(), *kept.items()]:
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif value is not None:
            raise ValueError(f"{prefix}{name} is no tensor but of {type(value).__name__}")
    for name, module in modules.items():
        if module is not None:
            _collect(module, f"{prefix}{name}.", found, seen)


class _Refused(ValueError):
    """A name that is not allowed."""


class _Reader(Unpickler):
    """An unpickler for which every name is a stand-in of this module."""

    def __init__(self, raw: BinaryIO, path: str | Path) -> None:
        super().__init__(raw)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name.

        Raises:
            ValueError: There is none.
        """
        full = f"{module}.{name}"
        if full in _ALLOWED:
            return _ALLOWED[full]
        if full in _NAMES or (module.startswith("torch.nn.modules.") and name.isidentifier()):
            return _class(full)
        raise _Refused(
            f"{self._path} names {' '.join(full.split())[:200]}, which a file of weights has no "
            "use for; nothing of it was run"
        )


class _Object:
    """An object that takes any arguments and keeps its state."""

    __slots__ = ("state",)
    full_name: ClassVar[str]
    state: dict[str, Any]

    def __new__(cls, *args: object, **kwargs: object) -> "_Object":
        self = super().__new__(cls)
        self.state = {}
        return self

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise ValueError(f"the state of {self.full_name} is no dict")
        self.state = state


class _Mapping(dict[Any, Any]):
    """A dict, whatever its class was; attributes that it had beside its items are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class _Held:
    """A value that is out of the pickle's reach until all of it has been read."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: object) -> None:
        raise ValueError("it sets a state of something that has none")


class _Function(_Held):
    """A function of this module, to be called."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        return self.value(*args)


class _Storage(_Held):
    """The numbers of tensors."""

    __slots__ = ()


class _Dtype:
    """The type of NumPy's numbers: a code such as f8, and the order of the bytes."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, align: object = False, copy: object = False) -> None:
        # Objects, strings and records are left out: those of objects hold more pickle.
        if not isinstance(code, str) or not re.fullmatch(r"[biuf]\d{1,2}", code):
            raise ValueError("it has a NumPy array of something else than numbers")
        self.code, self.order = code, "="

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise ValueError("it has a NumPy array of something else than numbers")
        self.order = order


class _Array:
    """A NumPy array, empty until its state is there."""

    __slots__ = ("value",)

    def __init__(self, *args: object) -> None:
        self.value = np.empty(0)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("it has a NumPy array of an unknown kind")
        _, shape, dtype, fortran, raw = state
        self.value = _numbers(dtype, raw).reshape(shape, order="F" if fortran else "C")


def _numbers(dtype: object, raw: object) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
        raise ValueError("it has a NumPy array of something else than numbers")
    return np.frombuffer(raw, dtype.order + dtype.code).copy()


def _scalar(dtype: object, raw: object) -> int | float:
    return _numbers(dtype, raw).item()


def _set(items: object = ()) -> set[Any]:
    if not isinstance(items, list | tuple | set):
        raise ValueError("it makes a set of something else than a list")
    return set(items)


def _size(sizes: object = ()) -> tuple[int, ...]:
    if not isinstance(sizes, list | tuple) or any(type(n) is not int for n in sizes):
        raise ValueError("it has a size that is no list of integers")
    return tuple(sizes)


def _device(kind: object, index: object = 0) -> str:
    if not isinstance(kind, str) or type(index) is not int:
        raise ValueError("it has a device without a name")
    return kind


def _storage(raw: object) -> _Storage:
    if not isinstance(raw, bytes):
        raise ValueError("the numbers of a tensor are no bytes")
    # These bytes are another pickle, which torch reads by a table of its own.
    storage = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise ValueError(f"the numbers of a tensor are a {type(storage).__name__}")
    return _Storage(storage)


def _tensor(
    storage: object, offset: object, size: object, stride: object, *settings: object
) -> _Held:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor has no numbers")
    sizes, strides, (start,) = _size(size), _size(stride), _size((offset,))
    dtype, numbers = storage.value.dtype, storage.value._untyped_storage
    available = numbers.nbytes() // dtype.itemsize
    last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    inside = min((start, *sizes, *strides)) >= 0 and math.prod(sizes) <= available
    # torch would lengthen a storage that is too short, and fill it with whatever was there.
    if not inside or (0 not in sizes and last >= available):
        raise ValueError(f"a tensor of shape {sizes} does not fit its {available} numbers")
    return _Held(torch.empty(0, dtype=dtype).set_(numbers, start, sizes, strides))


def _parameter(data: object, *settings: object) -> _Held:
    if not isinstance(data, _Held) or not isinstance(data.value, Tensor):
        raise ValueError("a parameter is no tensor")
    return data


def _persistent(meta: object) -> _Object:
    """An object that carries its source code, which is left where it is."""
    name, state = (meta.get(key) if isinstance(meta, dict) else None for key in _PERSISTENT)
    if not isinstance(name, str) or not isinstance(state, dict):
        raise ValueError("an object has no name of a class, or no state")
    made: _Object = _class(name)()
    made.state = state
    return made


def _class(full_name: str) -> Any:
    return type("_Named", (_Object,), {"__slots__": (), "full_name": full_name})


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """What a pickle has built, with every stand-in replaced, each object once."""
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype):
        return value
    if id(value) in known:
        return known[id(value)]
    made: Any
    if isinstance(value, dict):
        made = known[id(value)] = {}
        made.update((_plain(key, known), _plain(one, known)) for key, one in value.items())
    elif isinstance(value, list):
        made = known[id(value)] = []
        made.extend(_plain(one, known) for one in value)
    elif isinstance(value, tuple | set | frozenset):
        made = known[id(value)] = type(value)(_plain(one, known) for one in value)
    elif isinstance(value, _Object):
        made = known[id(value)] = Record(value.full_name, {})
        made.state.update(_plain(value.state, known))
    elif isinstance(value, _Held | _Array) and isinstance(value.value, Tensor | np.ndarray):
        made = value.value
    else:
        raise ValueError("it has a function, a class or a type of numbers among its values")
    return made


_PERSISTENT = ("class_name", "state")
_DTYPES = {str(one): one for one in vars(torch).values() if isinstance(one, torch.dtype)}
_ALLOWED: dict[str, Any] = {
    **_DTYPES,
    "torch_utils.persistence._reconstruct_persistent_obj": _Function(_persistent),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_parameter": _Function(_parameter),
    "torch.storage._load_from_bytes": _Function(_storage),
    "torch.Size": _Function(_size),
    "torch.device": _Function(_device),
    "collections.OrderedDict": _Mapping,
    "dnnlib.util.EasyDict": _Mapping,
    "builtins.set": _Function(_set),
    "__builtin__.set": _Function(_set),
    "numpy.dtype": _Function(_Dtype),
    "numpy.core.multiarray._reconstruct": _Function(_Array),
    "numpy._core.multiarray._reconstruct": _Function(_Array),
    "numpy.core.multiarray.scalar": _Function(_scalar),
    "numpy._core.multiarray.scalar": _Function(_scalar),
}
# Classes that are named, as an argument of something, and have nothing to do.
_KINDS = "Double Float Half BFloat16 Long Int Short Char Byte Bool ComplexDouble ComplexFloat"
_NAMES = {"numpy.ndarray", *(f"torch.{kind}Storage" for kind in _KINDS.split())}
