"""The tensors of the published NCSN and NCSNv2: their names, and the network their shapes show.

The state dict of NCSNv2 also holds the noise levels of the process, as the buffer `sigmas`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scoresde.models import RefineNet
from scoresde.models.refine import DilatedBlock, InstanceNormPlus, RefineBlock

from .table import Form, Row, layer

# Names of four, five and six levels, from full to lowest resolution. The network for 256 pixels is
# that for 128 with one more level.
_LEVELS = {
    4: ("1", "2", "3", "4"),
    5: ("1", "2", "3", "4", "5"),
    6: ("1", "2", "3", "31", "4", "5"),
}
# Names of the blocks that refine them, from lowest to full resolution. They are registered in the
# order of their names, but block 31 is applied before block 3.
_REFINE = {4: _LEVELS[4], 5: _LEVELS[5], 6: ("1", "2", "31", "3", "4", "5")}


def rows(net: RefineNet) -> list[Row]:
    """The table of the published names, in the order in which the published code registers them.

    Raises:
        ValueError: The network has another number of levels than the published ones.
    """
    levels = len(net.levels)
    if levels not in _LEVELS:
        raise ValueError(f"the published networks have 4, 5 or 6 levels, and this one has {levels}")
    found = layer("begin_conv", "conv_in")
    found += _norm("normalizer", "norm_out", net.norm_out)
    found += layer("end_conv", "conv_out")
    for index, name in enumerate(_LEVELS[levels]):
        for number in range(2):
            ours = f"levels.{index}.{number}"
            found += _residual(f"res{name}.{number}", ours, net.get_submodule(ours))
    for name in sorted(_REFINE[levels]):
        ours = f"refine.{_REFINE[levels].index(name)}"
        found += _refine(f"refine{name}", ours, net.get_submodule(ours))
    return found


def describe(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The arguments of the `RefineNet` with a published state dict.

    The shapes do not show the dilations, which are 2 and 4 in all published networks, or the
    activation, which is ELU. Names are those in the network, without `module.`.

    Raises:
        ValueError: The tensors are not those of a RefineNet with InstanceNorm++.
    """
    nf, channels = _get(shapes, "begin_conv.weight")[:2]
    levels = 4
    if "res5.0.conv1.weight" in shapes:
        levels = 6 if "res31.0.conv1.weight" in shapes else 5
    widths, dilations = [1], [1]
    for name in _LEVELS[levels][1:]:
        pooled = f"res{name}.0.conv2.conv.weight" in shapes
        conv = f"res{name}.0.conv2.conv" if pooled else f"res{name}.0.conv2"
        widths.append(_get(shapes, f"{conv}.weight")[0] // nf)
        dilations.append(1 if pooled else 2 * dilations[-1])
    table = shapes.get("normalizer.embed.weight")
    if table is None:
        _get(shapes, "normalizer.alpha"), _get(shapes, "normalizer.gamma")
    elif table[1] != 3 * nf:
        raise ValueError(
            f"normalizer.embed.weight is {tuple(table)}, and InstanceNorm++ has "
            f"{(table[0], 3 * nf)}; no other normalisation is built"
        )
    return {
        "shape": [channels, None, None],
        "nf": nf,
        "widths": widths,
        "dilations": dilations,
        "num_levels": None if table is None else table[0],
    }


def _get(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(f"these are not the tensors of a RefineNet with InstanceNorm++: no {name}")
    return shapes[name]


def _norm(theirs: str, ours: str, module: nn.Module) -> list[Row]:
    if not isinstance(module, InstanceNormPlus):
        return []
    if module.gamma.ndim == 1:
        return [Row(f"{theirs}.{name}", (f"{ours}.{name}",)) for name in ("alpha", "gamma", "beta")]
    names = tuple(f"{ours}.{name}" for name in ("gamma", "alpha", "beta"))
    table = Form(lambda table: table.chunk(3, dim=1), lambda parts: torch.cat(list(parts), dim=1))
    return [Row(f"{theirs}.embed.weight", names, table)]


def _residual(theirs: str, ours: str, block: nn.Module) -> list[Row]:
    assert isinstance(block, DilatedBlock)
    pooled = ".conv" if block.halve else ""
    found = layer(f"{theirs}.conv1", f"{ours}.conv_0")
    found += _norm(f"{theirs}.normalize2", f"{ours}.norm_1", block.norm_1)
    found += layer(f"{theirs}.conv2{pooled}", f"{ours}.conv_1")
    if list(block.shortcut.parameters()):
        found += layer(f"{theirs}.shortcut{pooled}", f"{ours}.shortcut")
    return found + _norm(f"{theirs}.normalize1", f"{ours}.norm_0", block.norm_0)


def _refine(theirs: str, ours: str, block: nn.Module) -> list[Row]:
    assert isinstance(block, RefineBlock)
    found: list[Row] = []
    for index, units in enumerate(block.adapt):
        assert isinstance(units, nn.ModuleList)
        found += _units(f"{theirs}.adapt_convs.{index}", f"{ours}.adapt.{index}", units)
    found += _units(f"{theirs}.output_convs", f"{ours}.out", block.out)
    if block.fuse is not None:
        for index in range(len(block.fuse.convs)):
            found += layer(f"{theirs}.msf.convs.{index}", f"{ours}.fuse.convs.{index}")
        for index, norm in enumerate(block.fuse.norms):
            found += _norm(f"{theirs}.msf.norms.{index}", f"{ours}.fuse.norms.{index}", norm)
    for index in range(len(block.pool.convs)):
        found += layer(f"{theirs}.crp.convs.{index}", f"{ours}.pool.convs.{index}")[:1]
    for index, norm in enumerate(block.pool.norms):
        found += _norm(f"{theirs}.crp.norms.{index}", f"{ours}.pool.norms.{index}", norm)
    return found


def _units(theirs: str, ours: str, units: nn.ModuleList) -> list[Row]:
    found: list[Row] = []
    for index, unit in enumerate(units):
        for step in range(2):
            name, norm = f"{theirs}.{index + 1}_{step + 1}", f"{ours}.{index}.norm_{step}"
            found += _norm(f"{name}_norm", norm, unit.get_submodule(f"norm_{step}"))
            found += layer(f"{name}_conv", f"{ours}.{index}.conv_{step}")[:1]
    return found
