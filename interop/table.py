"""Tables of names: which tensor of a format holds the numbers of which tensor of ours.

A format is a list of rows, made from a network, and is read in both directions. Reading is strict:
every tensor of the file is used, every tensor of the network is filled, and every shape is right.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def _one(theirs: Tensor) -> Sequence[Tensor]:
    return (theirs,)


def _same(ours: Sequence[Tensor]) -> Tensor:
    (tensor,) = ours
    return tensor


@dataclass(frozen=True)
class Row:
    """One tensor of a format.

    Args:
        theirs: Its name there.
        ours: Name of the tensor of the network that has its numbers, or of several.
        split: Our tensors from theirs.
        merge: Theirs from ours.
    """

    theirs: str
    ours: tuple[str, ...]
    split: Callable[[Tensor], Sequence[Tensor]] = _one
    merge: Callable[[Sequence[Tensor]], Tensor] = _same


def transposed(theirs: str, ours: str) -> Row:
    """A matrix that is stored the other way round."""
    return Row(theirs, (ours,), lambda w: (w.T,), lambda tensors: tensors[0].T)


def pixelwise(theirs: str, ours: str) -> Row:
    """A map of channels, ours (in, out), that they store as a 1 × 1 convolution."""
    return Row(
        theirs,
        (ours,),
        lambda w: (w.flatten(1).T,),
        lambda tensors: tensors[0].T[..., None, None],
    )


def layer(theirs: str, ours: str) -> list[Row]:
    """Weight and bias of a layer that both sides store alike."""
    return [Row(f"{theirs}.{name}", (f"{ours}.{name}",)) for name in ("weight", "bias")]


def read(
    rows: Iterable[Row],
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    source: object,
) -> dict[str, Tensor]:
    """Our tensors from those of a file, as copies in the network's type.

    Copies, because what is mapped from a file changes with it; and a network's layers have one
    type, whereas narrower files (float16, bfloat16) are for storage.

    Args:
        rows: Table of the format.
        state: Tensors of the file.
        wanted: Tensors of the network, for their shapes.
        source: The file, as errors name it.

    Raises:
        ValueError: A tensor of the file is missing, left over, of another shape, or does not hold
            real numbers.
    """
    rows = list(rows)
    known = {row.theirs for row in rows}
    missing, extra = sorted(known - state.keys()), sorted(state.keys() - known)
    if missing or extra:
        listed = [f"lacks {_some(missing)}"] * bool(missing)
        listed += [f"has {_some(extra)}, which the network has not"] * bool(extra)
        raise ValueError(f"{source} does not fit the network: it {' and '.join(listed)}")
    found: dict[str, Tensor] = {}
    for row in rows:
        theirs = state[row.theirs]
        # What the network would write has the shape that the file must have.
        expected = row.merge([wanted[name] for name in row.ours]).shape
        if theirs.shape != expected:
            raise ValueError(
                f"{source} does not fit the network: {row.theirs} is {tuple(theirs.shape)}, "
                f"expected {tuple(expected)}"
            )
        if not theirs.is_floating_point() or theirs.layout is not torch.strided:
            raise ValueError(f"{source} has {theirs.dtype} numbers in {row.theirs}, not real ones")
        for name, tensor in zip(row.ours, row.split(theirs), strict=True):
            whole = torch.contiguous_format
            found[name] = tensor.to(dtype=wanted[name].dtype, copy=True, memory_format=whole)
    if found.keys() != wanted.keys():
        raise ValueError(f"{source} says nothing of {_some(sorted(wanted.keys() - found.keys()))}")
    return found


def write(rows: Iterable[Row], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file from ours."""
    return {row.theirs: row.merge([state[name] for name in row.ours]) for row in rows}


def _some(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
