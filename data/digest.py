"""Digests, by which a training recognizes its data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_CHUNK = 2**22  # bytes that are hashed at a time


def digest_of(parts: Iterable[str | Tensor]) -> str:
    """SHA-256 of texts and of the bytes of tensors in their order, as 64 hexadecimal digits."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            whole.update(part.encode())
        elif part.numel():
            rows = max(1, _CHUNK * len(part) // part.nbytes)
            for chunk in part.split(rows):  # as bytes, since numpy lacks some types
                whole.update(chunk.cpu().contiguous().view(torch.uint8).numpy().data)
    return whole.hexdigest()


def named(name: str, values: Tensor | None) -> Iterator[str | Tensor]:
    """A tensor for `digest_of`, after its name, type and shape."""
    about = "none" if values is None else f"{values.dtype} {tuple(values.shape)}"
    yield f"{name} {about}\n"
    if values is not None:
        yield values
