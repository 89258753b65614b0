"""The files of CIFAR-10: records of bytes, or pickles, which are read without running them."""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Records(NamedTuple):
    """`pixels` uint8 (N, 3072) and `labels` int64 (N,), 0 to 9."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def binary_batch(content: bytes, source: str, fix: str) -> Records:
    """Read a file of the binary version: records of one label and 3072 bytes.

    Messages name the file `source`, and end with the advice `fix`.

    Raises:
        ValueError: The bytes are not a whole number of records, or labels are not 0 to 9.
    """
    if len(content) % 3073:
        raise ValueError(
            f"{source} is corrupt or truncated: expected records of 3073 bytes, got "
            f"{len(content)} bytes; {fix}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return _checked(records[:, 1:], records[:, 0].astype(np.int64), source, fix)


def python_batch(content: bytes, source: str, fix: str) -> Records:
    """Read a file of the Python version, pickled by Python 2 or 3 in any protocol.

    Messages name the file `source`, and end with the advice `fix`.

    Raises:
        ValueError: The pickle refers to more than arrays and bytes, or is not a CIFAR-10 batch.
    """
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
        pixels, labels = _array(batch["data"]), _integers(batch["labels"])
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
            raise TypeError(
                f"{pixels.dtype} array of shape {pixels.shape} with {len(labels)} labels"
            )
    except Exception as error:  # a hostile or broken pickle can raise anything
        raise ValueError(
            f"{source} is not a CIFAR-10 batch: expected a dict of a uint8 array (N, 3072) and N "
            f"labels ({type(error).__name__}: {error}); nothing was executed; {fix}"
        ) from error
    return _checked(pixels, labels, source, fix)


def _checked(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], source: str, fix: str
) -> Records:
    if len(labels) and not 0 <= labels.min() <= labels.max() <= 9:
        raise ValueError(f"{source} has labels outside 0..9, expected CIFAR-10; {fix}")
    return Records(pixels, labels)


class _Inert:
    """Stand-in for a numpy object in a pickle: it stores its arguments and runs nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Flat(_Inert):
    """Stand-in for an array that was pickled as (bytes, dtype, shape, order)."""


class _Scalar(_Inert):
    """Stand-in for a numpy scalar, pickled as (dtype, bytes)."""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes from text: protocols 0 to 2 of Python 3 pickle bytes as a call of `codecs.encode`."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}, which was refused")
    return text.encode("latin1")


# All globals in the pickle of an array, of numpy 1 and 2 and protocols 0 to 5.
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Inert,
    ("numpy", "dtype"): _Inert,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _Inert
    _KNOWN[f"{_core}.multiarray", "scalar"] = _Scalar
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _Flat


class _BatchUnpickler(pickle.Unpickler):
    """An unpickler that knows only the globals of a numpy array, each as an inert stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which was refused")
        return known


def _array(value: Any) -> NDArray[Any]:
    """The array of integers that a stand-in describes."""
    if isinstance(value, _Flat):
        data, dtype, shape, order = value.arguments
    else:
        _, shape, dtype, fortran, data = value.state
        order = "F" if fortran else "C"
    return np.frombuffer(data, _dtype(dtype)).reshape(shape, order=order)


def _integers(values: Any) -> NDArray[np.int64]:
    """Labels from a list of Python or numpy integers, or from an array."""
    if isinstance(values, _Inert):
        return _array(values).astype(np.int64)
    return np.array([int(_number(value)) for value in values], np.int64)


def _number(value: Any) -> int:
    if isinstance(value, _Scalar):
        dtype, data = value.arguments
        return int(np.frombuffer(data, _dtype(dtype))[0])
    if type(value) is not int:
        raise TypeError(f"the label {value!r} is not an integer")
    return value


def _dtype(value: _Inert) -> np.dtype[Any]:
    """The type of integers that a stand-in describes."""
    name = value.arguments[0]
    dtype = np.dtype(name.decode() if isinstance(name, bytes) else name)
    if dtype.kind not in "iu":
        raise TypeError(f"an array of {dtype}")
    order = value.state[1] if value.state else "|"
    return dtype.newbyteorder(">") if order in (">", b">") else dtype
