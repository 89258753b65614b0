"""Tables of names: which tensor of a format holds the numbers of which tensor of our network.

A format is a list of rows that is made from a network and used in both directions. Reading is
strict: every tensor of the file must be used, every tensor of the network must be filled, and every
shape must agree.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Form(NamedTuple):
    """How a format stores one of our tensors: the maps from its tensor to ours, and back."""

    split: Callable[[Tensor], Sequence[Tensor]]
    merge: Callable[[Sequence[Tensor]], Tensor]


SAME = Form(lambda theirs: (theirs,), lambda ours: ours[0])
# A matrix with its axes exchanged.
TRANSPOSED = Form(lambda theirs: (theirs.T,), lambda ours: ours[0].T)
# A matrix, ours (in, out), as a 1 × 1 convolution.
PIXELWISE = Form(lambda theirs: (theirs.flatten(1).T,), lambda ours: ours[0].T[..., None, None])
# A convolution, ours (out, in, height, width), as (height, width, in, out).
CHANNELS_LAST = Form(
    lambda theirs: (theirs.permute(3, 2, 0, 1),), lambda ours: ours[0].permute(2, 3, 1, 0)
)


@dataclass(frozen=True)
class Row:
    """One tensor of a format.

    Args:
        theirs: Name of the tensor in the format.
        ours: Names of the tensors of our network that hold its numbers.
        form: How the format stores them.
    """

    theirs: str
    ours: tuple[str, ...]
    form: Form = SAME


def layer(
    theirs: str, ours: str, form: Form = SAME, names: Sequence[str] = (".weight", ".bias")
) -> list[Row]:
    """The rows of a layer: a weight, stored in a form, and a bias. `names` are their endings."""
    weight, bias = names
    return [
        Row(theirs + weight, (f"{ours}.weight",), form),
        Row(theirs + bias, (f"{ours}.bias",)),
    ]


def read(
    rows: Iterable[Row],
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    source: object,
) -> dict[str, Tensor]:
    """Our tensors from those of a file, as copies in the network's dtype.

    They are copies because tensors that are mapped from a file change with it, and they have the
    network's dtype because narrower types (float16, bfloat16) only serve storage.

    Args:
        rows: Table of the format.
        state: Tensors of the file `source`.
        wanted: Tensors of the network, for their shapes.

    Raises:
        ValueError: A tensor of the file is missing or superfluous, has another shape, or does not
            hold real numbers.
    """
    rows = list(rows)
    known = {row.theirs for row in rows}
    missing, extra = sorted(known - state.keys()), sorted(state.keys() - known)
    if missing or extra:
        listed = [f"lacks {_some(missing)}"] * bool(missing)
        listed += [f"has {_some(extra)}, which the network has not"] * bool(extra)
        raise ValueError(f"{source} does not fit the network: it {' and '.join(listed)}")
    expected = write(rows, wanted)
    found: dict[str, Tensor] = {}
    for row in rows:
        theirs, shape = state[row.theirs], expected[row.theirs].shape
        if theirs.shape != shape:
            raise ValueError(
                f"{source} does not fit the network: {row.theirs} is {tuple(theirs.shape)}, "
                f"expected {tuple(shape)}"
            )
        if not theirs.is_floating_point() or theirs.layout is not torch.strided:
            raise ValueError(f"{source} has {theirs.dtype} numbers in {row.theirs}, not real ones")
        for name, tensor in zip(row.ours, row.form.split(theirs), strict=True):
            whole = torch.contiguous_format
            found[name] = tensor.to(dtype=wanted[name].dtype, copy=True, memory_format=whole)
    if found.keys() != wanted.keys():
        raise ValueError(f"{source} says nothing of {_some(sorted(wanted.keys() - found.keys()))}")
    return found


def write(rows: Iterable[Row], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file from those of our network."""
    return {row.theirs: row.form.merge([state[name] for name in row.ours]) for row in rows}


def _some(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
