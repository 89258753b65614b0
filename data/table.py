"""Parquet files of encoded images, the format of Hugging Face's data sets, read by pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .files import File
from .picture import Decoder, decode
from .place import Place

_ROWS = 32  # decoded at a time


class Table:
    """A Parquet file with a column of images: encoded bytes, or a struct with a field `bytes`.

    The column is the only one of that kind, or otherwise the one named `image` or `img`. Memory
    holds the encoded bytes of one row group at a time, twice.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: The file is corrupt, or has no column of images or several.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        self._types = _pyarrow(file.source).types
        with self._opened() as parquet:
            self._count = int(parquet.metadata.num_rows)
            self._column, self._nested = self._find(parquet.schema_arrow)
            columns = parquet.schema_arrow
            self._integers = [c.name for c in columns if self._types.is_integer(c.type)]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Image.Image]:
        row = 0
        leaf = f"{self._column}.bytes" if self._nested else self._column
        with self._opened() as parquet:
            for batch in parquet.iter_batches(batch_size=_ROWS, columns=[leaf]):
                for value in batch.column(0):
                    image = value["bytes"] if self._nested and value.is_valid else value
                    source = f"{self.file.source}, row {row}"
                    if not image.is_valid:
                        raise ValueError(
                            f"{source} holds no bytes in the column {self._column}, expected an "
                            "encoded image; embed the images in the file"
                        )
                    yield decode(image.as_py(), source)
                    row += 1

    def label_names(self) -> list[str]:
        """The names of the columns of integers."""
        return self._integers

    def labels(self, name: str) -> NDArray[np.int64]:
        """The integers of a column, (N,)."""
        with self._opened() as parquet:
            column = parquet.read(columns=[name]).column(name)
        if column.null_count:
            raise ValueError(
                f"{self.file.source} has {column.null_count} rows without a value in the column "
                f"{name}, expected an integer in each; use data.labels=null"
            )
        return np.asarray(column.to_numpy(), np.int64)

    def place(self) -> tuple[Place, Decoder]:
        """Raise ValueError, since the rows of a Parquet file are compressed together."""
        raise ValueError(
            f"{self.file.source} is a Parquet file, which cannot be read image by image; use "
            "data=folder, or write the images to a folder, zip or tar"
        )

    def _find(self, schema: Any) -> tuple[str, bool]:
        """The column of images, and whether it is a struct."""
        types, found = self._types, dict[str, bool]()
        binary = (types.is_binary, types.is_large_binary, types.is_binary_view)
        for column in schema:
            kind = column.type
            nested = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            kind = kind.field("bytes").type if nested else kind
            if any(is_kind(kind) for is_kind in binary):
                found[column.name] = nested
        named = list(found) if len(found) == 1 else [n for n in ("image", "img") if n in found]
        if not named:
            held = ", ".join(f"{column.name} ({column.type})" for column in schema)
            raise ValueError(
                f"{self.file.source} has {len(found)} columns of encoded images, expected one, or "
                f"one named image; it holds {held[:300]}"
            )
        return named[0], found[named[0]]

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        pyarrow = _pyarrow(self.file.source)
        with self.file.open() as stream:
            try:
                # Small buffers, since a row group of photographs can take a gigabyte.
                yield pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=2**20)
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(
                    f"{self.file.source} is corrupt, truncated or not what its name says: expected "
                    f"a complete Parquet file ({error}); replace or remove it"
                ) from error


def _pyarrow(source: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
        import pyarrow.types
    except ImportError as error:
        raise ImportError(
            f"{source} is read by pyarrow, which is not installed; install it: "
            'pip install "score-sde-toolkit[parquet]"'
        ) from error
    return pyarrow
