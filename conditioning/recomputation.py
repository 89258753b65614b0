"""Evaluations of a network whose activations are computed again when a gradient needs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from scoresde.sde.precision import module_of


@contextmanager
def recomputed(score: Any) -> Iterator[bool]:
    """Evaluate a network within so that only the inputs of its blocks are kept.

    Blocks are the entries of the network's innermost module lists. A product with the Jacobian then
    evaluates each of them a second time, one after the other, so that the activations of a single
    block are in memory next to the inputs of all. One segment around the whole network would save
    nothing: its product would hold all activations at once.

    Args:
        score: s(x, t), behind which the network is looked for.

    Yields:
        Whether there are such blocks.

    Reference: Chen et al. 2016, arXiv:1604.06174 (section 4.1).
    """
    module = module_of(score)
    blocks = [] if module is None else _blocks(module)
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield bool(blocks)
    finally:
        for block in blocks:
            del block.forward  # the method of the class is found again


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The entries of module lists that hold no module list themselves."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    entries = {entry: None for found in lists for entry in found}
    return [
        entry
        for entry in entries
        if not any(isinstance(part, nn.ModuleList) for part in entry.modules())
    ]
