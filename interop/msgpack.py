"""Decoding msgpack, the format of flax's states, to plain values and tensors.

A value is a tag and the bytes that the tag announces. Flax adds three extensions: arrays, complex
numbers and NumPy's scalars. No code is run, only the dtypes below are looked up by a name from the
bytes, and every length is compared with the number of bytes that are left.

Reference: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_DEPTH = 64
MAX_DIMENSIONS = 32

_NAMES = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64"
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NAMES.split()}

_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = dict(zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True))
# Tags that are followed by a length: the kind of value, and the number of bytes of the length.
_SIZED = {
    first + number: (kind, width)
    for kind, first, widths in (
        ("bin", 0xC4, (1, 2, 4)),
        ("ext", 0xC7, (1, 2, 4)),
        ("str", 0xD9, (1, 2, 4)),
        ("array", 0xDC, (2, 4)),
        ("map", 0xDE, (2, 4)),
    )
    for number, width in enumerate(widths)
}
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # codes of flax's extensions
_CHUNKED = "__msgpack_chunked_array__"


class Ext(NamedTuple):
    """An extension other than flax's: its code, -128 to 127, and its bytes."""

    code: int
    data: bytes


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The one value that the bytes hold.

    Args:
        data: The bytes. Arrays are views of writable bytes where they are aligned to the size of
            their numbers, and copies otherwise.

    Returns:
        None, bool, int, float, complex, str, bytes, list, dict, `Ext`, or a tensor for an array.

    Raises:
        ValueError: The bytes end too early or too late, are no msgpack, nest too deeply, or hold
            an array with a dtype outside `DTYPES`.
    """
    view = memoryview(data).cast("B")
    # Tensors need writable memory.
    reader = _Reader(memoryview(bytearray(view)) if view.readonly else view)
    value = reader.value()
    reader.end()
    return value


class _Reader:
    """Values from bytes, one after the other; `binary` converts raw bytes."""

    def __init__(
        self, data: memoryview, depth: int = 0, binary: Callable[[memoryview], Any] = bytes
    ) -> None:
        self.data, self.at, self.depth, self.binary = data, 0, depth, binary

    def value(self) -> Any:
        """The next value."""
        tag = self._take(1)[0]
        if tag < 0x80 or tag >= 0xE0:
            return tag if tag < 0x80 else tag - 0x100
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        if tag in _NUMBERS:
            number = ">" + _NUMBERS[tag]
            return struct.unpack(number, self._take(struct.calcsize(number)))[0]
        kind, size = self._head(tag)
        if kind == "bin":
            return self.binary(self._take(size))
        if kind == "str":
            return self._text(size)
        if self.depth == MAX_DEPTH:
            raise self._error(f"nest more than {MAX_DEPTH} deep")
        self.depth += 1
        value = {"array": self._array, "map": self._map, "ext": self._ext}[kind](size)
        self.depth -= 1
        return value

    def end(self) -> None:
        """Check that nothing follows."""
        if self.at != len(self.data):
            raise self._error(f"go on after their value, to {len(self.data)}")

    def _head(self, tag: int) -> tuple[str, int]:
        if tag in _SIZED:
            kind, width = _SIZED[tag]
            return kind, int.from_bytes(self._take(width), "big")
        if tag < 0xA0:
            return ("map" if tag < 0x90 else "array"), tag & 0x0F
        if tag < 0xC0:
            return "str", tag & 0x1F
        if 0xD4 <= tag <= 0xD8:
            return "ext", 1 << (tag - 0xD4)
        raise self._error(f"have the tag {tag:#x}, which msgpack does not use")

    def _take(self, size: int) -> memoryview:
        self._need(size)
        self.at += size
        return self.data[self.at - size : self.at]

    def _need(self, size: int) -> None:
        left = len(self.data) - self.at
        if size > left:
            raise self._error(f"end too early, {left} are left of {size}")

    def _text(self, size: int) -> str:
        raw = self._take(size)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise self._error("have text that is not UTF-8") from None

    def _array(self, size: int) -> list[Any]:
        self._need(size)
        return [self.value() for _ in range(size)]

    def _map(self, size: int) -> Any:
        self._need(2 * size)
        values: dict[Any, Any] = {}
        for _ in range(size):
            key = self.value()
            if not isinstance(key, str | bytes | int) or key in values:
                raise self._error(
                    "have a map with a repeated key, or one that is no name or number"
                )
            values[key] = self.value()
        return self._join(values) if _CHUNKED in values else values

    def _ext(self, size: int) -> Any:
        code = int.from_bytes(self._take(1), "big", signed=True)
        payload = self._take(size)
        if code not in (_ARRAY, _COMPLEX, _SCALAR):
            return Ext(code, bytes(payload))
        reader = _Reader(payload, self.depth, memoryview)
        fields = reader.value()
        reader.end()
        if code == _COMPLEX:
            match fields:
                case [float(real), float(imaginary)]:
                    return complex(real, imaginary)
            raise self._error("have a complex number that is not two numbers")
        array = self._tensor(fields)
        if code == _ARRAY:
            return array
        if array.numel() != 1:
            raise self._error(f"have a scalar of {array.numel()} numbers")
        return array.item()

    def _tensor(self, fields: Any) -> Tensor:
        match fields:
            case [list(shape), str(name), memoryview() as raw]:
                pass
            case _:
                raise self._error("have an array that is not a shape, a dtype and bytes")
        if name not in DTYPES:
            raise self._error(f"have an array of {name[:40]!r}, allowed are {', '.join(DTYPES)}")
        dtype = DTYPES[name]
        if self._count(shape) * dtype.itemsize != len(raw):
            raise self._error(
                f"have an array of {name} whose shape does not fit its {len(raw)} bytes"
            )
        if not raw:
            return torch.empty(shape, dtype=dtype, device="cpu")
        numbers = torch.frombuffer(raw, dtype=torch.uint8)
        if numbers.data_ptr() % dtype.itemsize:
            numbers = numbers.clone()
        if dtype == torch.bool:
            numbers = numbers != 0  # torch's bools must be 0 or 1
        return numbers.view(dtype).reshape(shape)

    def _join(self, parts: dict[Any, Any]) -> Tensor:
        """An array that flax has divided because it is too large for one value."""
        shape, chunks = self._listed(parts.get("shape")), self._listed(parts.get("chunks"))
        for chunk in chunks:
            if not isinstance(chunk, Tensor) or chunk.ndim != 1 or chunk.dtype != chunks[0].dtype:
                raise self._error("have an array in chunks that are not vectors of one dtype")
        if not chunks or self._count(shape) != sum(len(chunk) for chunk in chunks):
            raise self._error("have an array in chunks that do not fit its shape")
        return torch.cat(chunks).reshape(shape)

    def _listed(self, numbered: Any) -> list[Any]:
        """The values of {"0": …, "1": …}, the form of a tuple in flax."""
        if not isinstance(numbered, dict):
            raise self._error("have an array in chunks without a shape or without chunks")
        names = [str(number) for number in range(len(numbered))]
        if numbered.keys() != set(names):
            raise self._error("have an array in chunks that are not numbered from 0")
        return [numbered[name] for name in names]

    def _count(self, shape: list[Any]) -> int:
        sizes = all(type(size) is int and size >= 0 for size in shape)
        # An empty array can have any shape whose strides do not overflow.
        if not sizes or len(shape) > MAX_DIMENSIONS or math.prod(n or 1 for n in shape) >= 2**63:
            raise self._error("have an array with a shape that is no list of sizes")
        return math.prod(shape)

    def _error(self, what: str) -> ValueError:
        return ValueError(f"the bytes {what} (at {self.at})")
