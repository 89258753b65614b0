"""Pickled models of other projects, read without running any code of the file.

A pickle is a program that names functions and calls them. Here each name that files of weights need
is replaced by a harmless stand-in of this module, and all other names are refused. The program can
then only build dicts, lists, tensors, and records of objects.

The program may call what it names with any arguments, and set any state of it (the opcodes REDUCE,
NEWOBJ, OBJ, INST and BUILD). Therefore it never receives a function or class of another module, and
every stand-in checks its arguments. Each stand-in has a `__setstate__`, because otherwise BUILD
could set any attribute of it, even of a class or a function that all readers share.
"""

import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from pickle import Unpickler
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Record:
    """The name of the class and the state of an object in a pickle.

    Args:
        class_name: Name of the class, with its module for classes of PyTorch.
        state: Attributes of the object.
    """

    class_name: str
    state: dict[str, Any]


def read_pickle(path: str | Path) -> Any:
    """The contents of a pickle: plain values, dicts, lists, tensors, arrays and `Record`s.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file names something that no file of weights needs, is damaged, or is no
            pickle.
    """
    with open(path, "rb") as raw:
        try:
            value = _plain(_Reader(raw, path).load(), {})
            rest = raw.read(1)
        except _Refused:
            raise
        except Exception as error:  # damaged files raise errors of many types
            sentence = " ".join(str(error).split())[:600] or type(error).__name__
            raise ValueError(f"{path} is damaged or no pickle of weights: {sentence}") from error
    if rest:
        raise ValueError(f"{path} goes on after its pickle ends; it is of another format")
    return value


class _Refused(ValueError):
    """The error for a name that is not allowed."""


class _Reader(Unpickler):
    """An unpickler that replaces every name by a stand-in of this module."""

    def __init__(self, raw: BinaryIO, path: str | Path) -> None:
        super().__init__(raw)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; a ValueError if it has none."""
        full = f"{module}.{name}"
        if full in _ALLOWED:
            return _ALLOWED[full]
        if full in _NAMES or (module.startswith("torch.nn.modules.") and name.isidentifier()):
            return _class(full)
        raise _Refused(
            f"{self._path} names {' '.join(full.split())[:200]}, which no file of weights needs; "
            "no code of it was run"
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

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise ValueError(f"the state of {self.full_name} is no dict")
        self.state = state


class _Mapping(dict[Any, Any]):
    """A dict in place of any mapping; attributes other than its items are dropped."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class _Held:
    """A value that the pickle cannot access until all of it has been read."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: object) -> None:
        raise ValueError("it sets the state of an object that has none")


class _Function(_Held):
    """A function of this module, which the pickle may call."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        return self.value(*args)


class _Dtype:
    """A dtype of NumPy: a code such as f8, and the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, align: object = False, copy: object = False) -> None:
        # Arrays of objects would contain further pickles; strings and records are not needed.
        if not isinstance(code, str) or not re.fullmatch(r"[biuf]\d{1,2}", code):
            raise ValueError(_NOT_NUMBERS)
        self.code, self.order = code, "="

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise ValueError(_NOT_NUMBERS)
        self.order = order


class _Array:
    """A NumPy array, which is empty until its state is set."""

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
        raise ValueError(_NOT_NUMBERS)
    return np.frombuffer(raw, dtype.order + dtype.code).copy()


def _scalar(dtype: object, raw: object) -> int | float:
    return _numbers(dtype, raw).item()


def _set(items: object = ()) -> set[Any]:
    if not isinstance(items, list | tuple | set):
        raise ValueError("it makes a set from something other than a list")
    return set(items)


def _size(sizes: object = ()) -> tuple[int, ...]:
    if not isinstance(sizes, list | tuple) or any(type(n) is not int for n in sizes):
        raise ValueError("it has a size that is no list of integers")
    return tuple(sizes)


def _device(kind: object, index: object = 0) -> str:
    if not isinstance(kind, str) or type(index) is not int:
        raise ValueError("it has a device without a name")
    return kind


def _storage(raw: object) -> _Held:
    if not isinstance(raw, bytes):
        raise ValueError("the storage of a tensor is no bytes")
    # These bytes are another pickle, for which torch has its own list of allowed names.
    storage = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.storage.TypedStorage):
        raise ValueError(f"the storage of a tensor is a {type(storage).__name__}")
    return _Held(storage)


def _tensor(
    storage: object, offset: object, size: object, stride: object, *settings: object
) -> _Held:
    if not isinstance(storage, _Held) or not isinstance(storage.value, torch.storage.TypedStorage):
        raise ValueError("a tensor has no storage")
    sizes, strides, (start,) = _size(size), _size(stride), _size((offset,))
    dtype, numbers = storage.value.dtype, storage.value._untyped_storage
    available = numbers.nbytes() // dtype.itemsize
    last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    inside = min((start, *sizes, *strides)) >= 0 and math.prod(sizes) <= available
    # torch would extend a storage that is too short by uninitialized memory.
    if not inside or (0 not in sizes and last >= available):
        raise ValueError(f"a tensor of shape {sizes} does not fit its {available} numbers")
    return _Held(torch.empty(0, dtype=dtype).set_(numbers, start, sizes, strides))


def _parameter(data: object, *settings: object) -> _Held:
    if not isinstance(data, _Held) or not isinstance(data.value, Tensor):
        raise ValueError("a parameter is no tensor")
    return data


def _persistent(meta: object) -> _Object:
    """An object that carries its source code, which is ignored."""
    name, state = (meta.get(key) if isinstance(meta, dict) else None for key in _PERSISTENT)
    if not isinstance(name, str) or not isinstance(state, dict):
        raise ValueError("an object has no name of a class, or no state")
    made: _Object = _class(name)()
    made.state = state
    return made


def _class(full_name: str) -> Any:
    return type("_Named", (_Object,), {"__slots__": (), "full_name": full_name})


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """The value that a pickle has built, with every stand-in replaced once."""
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
        raise ValueError("it has a function, a class or a dtype of NumPy among its values")
    return made


_NOT_NUMBERS = "it has a NumPy array of something other than numbers"
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
# Classes that occur only as arguments.
_KINDS = "Double Float Half BFloat16 Long Int Short Char Byte Bool ComplexDouble ComplexFloat"
_NAMES = {"numpy.ndarray", *(f"torch.{kind}Storage" for kind in _KINDS.split())}
