"""The layers of a U-Net in the order of their construction, each with its role and place.

Every format has its own names for the same layers: a format is a name for each part of the network,
and for each layer within a part. The latter are compared in one table here.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from scoresde.models import UNet

# Names of a layer within its part: ours, and what score-SDE, diffusers and EDM add to the name of
# the part; None where the networks of a format have no such layer.
_LAYERS = (
    ("", "", "", ""),
    ("branch.norm_0", ".GroupNorm_0", ".norm1", ".norm0"),
    ("branch.conv_0", ".Conv_0", ".conv1", ".conv0"),
    ("branch.dense", ".Dense_0", ".time_emb_proj", ".affine"),
    ("branch.norm_1", ".GroupNorm_1", ".norm2", ".norm1"),
    ("branch.conv_1", ".Conv_1", ".conv2", ".conv1"),
    ("shortcut", ".Conv_2", ".conv_shortcut", ".skip"),
    ("norm", ".GroupNorm_0", ".group_norm", ".norm2"),
    ("q", ".NIN_0", ".to_q", ".qkv"),
    ("k", ".NIN_1", ".to_k", ".qkv"),
    ("v", ".NIN_2", ".to_v", ".qkv"),
    ("out", ".NIN_3", ".to_out.0", ".proj"),
    ("layer.conv", ".Conv_0", ".conv", None),
    ("resample.conv", ".Conv_0", None, "_residual"),
    ("conv", ".Conv_0", ".skip_conv", "_skip"),
    ("head.0", "", ".skip_norm", "_norm"),
    ("head.2", "", ".skip_conv", "_conv"),
)
SCORE_SDE_LAYERS, DIFFUSERS_LAYERS, EDM_LAYERS = (
    {names[0]: name for names in _LAYERS if (name := names[i]) is not None} for i in (1, 2, 3)
)


class Part(NamedTuple):
    """A part of the network, of one or several layers, with its role and place.

    Attributes:
        role: `fourier`, `dense`, `conv_in`, `block`, `attention`, `step` (a change of resolution),
            `pyramid` (a layer of the input or output pyramid), `norm_out` or `conv_out`.
        way: `in`, `down`, `middle`, `up` or `out`.
        level: 0 at full resolution.
        number: Number of the part among those of its role on this level.
        name: Name of the module in the network.
        module: The module.
    """

    role: str
    way: str
    level: int
    number: int
    name: str
    module: Any


class Layer(NamedTuple):
    """A layer with a weight and a bias.

    Attributes:
        place: Name within its part, empty for the part itself.
        name: Name in the network.
        module: The layer.
        filtered: Whether a FIR filter is applied next to it.
    """

    place: str
    name: str
    module: nn.Module
    filtered: bool


def parts(net: UNet) -> Iterator[Part]:
    """All parts that have saved tensors or a number in published checkpoints, in the order of
    their construction.

    Raises:
        ValueError: The network has class labels, which the formats here do not support.
    """
    if net.classes is not None:
        raise ValueError(
            f"a network of {net.classes} classes cannot be written for score-SDE or diffusers; "
            "keep it in the native format (ScoreModel.save, --to native)"
        )
    yield from _entrance(net)
    lowest = len(net.widths) - 1
    ways: tuple[Any, Any] = (net.down, net.up)
    for level, down in enumerate(ways[0]):
        yield from _stages("down", level, f"down.{level}", down.stages)
        if down.step is not None:
            yield Part("step", "down", level, 0, f"down.{level}.step", down.step)
        if down.pyramid is not None:
            yield Part("pyramid", "down", level, 0, f"down.{level}.pyramid", down.pyramid)
    for index, stage in enumerate((net.middle_0, net.middle_1)):
        yield from _stage("middle", lowest, index, f"middle_{index}", stage)
    for number, up in enumerate(ways[1]):
        level = lowest - number
        yield from _stages("up", level, f"up.{number}", up.stages)
        if up.pyramid is not None:
            yield Part("pyramid", "up", level, 0, f"up.{number}.pyramid", up.pyramid)
        if up.step is not None:
            yield Part("step", "up", level, 0, f"up.{number}.step", up.step)
    if net.head is not None:
        yield Part("norm_out", "out", 0, 0, "head.0", net.head[0])
        yield Part("conv_out", "out", 0, 0, "head.2", net.head[2])


def layers(part: Part) -> Iterator[Layer]:
    """The layers of a part in the order of their construction."""
    for place, module in part.module.named_modules():
        if list(module.parameters(recurse=False)):
            parent = part.module.get_submodule(place.rpartition(".")[0])
            filtered = getattr(parent, "kernel", None) is not None
            yield Layer(place, f"{part.name}.{place}".rstrip("."), module, filtered)


def _entrance(net: UNet) -> Iterator[Part]:
    if net.embedding is not None:
        if list(net.embedding.embed.buffers()):
            yield Part("fourier", "in", 0, 0, "embedding.embed", net.embedding.embed)
        yield Part("dense", "in", 0, 0, "embedding.dense_0", net.embedding.dense_0)
        yield Part("dense", "in", 0, 1, "embedding.dense_1", net.embedding.dense_1)
    yield Part("conv_in", "in", 0, 0, "conv_in", net.conv_in)


def _stages(way: str, level: int, name: str, stages: Any) -> Iterator[Part]:
    for index, stage in enumerate(stages):
        yield from _stage(way, level, index, f"{name}.stages.{index}", stage)


def _stage(way: str, level: int, index: int, name: str, stage: Any) -> Iterator[Part]:
    yield Part("block", way, level, index, f"{name}.block", stage.block)
    if stage.attention is not None:
        yield Part("attention", way, level, index, f"{name}.attention", stage.attention)
