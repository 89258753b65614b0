"""Checkpoints of the original score-SDE code, which was written in JAX, without JAX.

Such a file is the state of a training run in msgpack. A compact module of flax names what it makes
by class and number: the number counts the modules of that class in the order in which this module
makes them, those without parameters too. Images have their channels last, so that convolutions
are stored as (height, width, in, out); a transposed convolution before a FIR filter correlates
with its stored kernel just as any other, and so is turned in the same way.

Reference: Song et al. 2021, arXiv:2011.13456; https://flax.readthedocs.io
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from torch import Tensor, nn

from scoresde.models import UNet
from scoresde.models.layers import NIN, BigGANBlock
from scoresde.models.names import WRAPPERS
from scoresde.models.resample import DownsampleConv2d, InputSkip, OutputSkip, UpsampleConv2d

from .msgpack import decode
from .table import Row, transposed
from .unet import Part, parts


class FlaxState(TypedDict):
    """What a checkpoint says of the network.

    Attributes:
        step: Updates that were made.
        params: Parameters by the names of flax, nested.
        params_ema: Their running mean, or None if the file has none.
    """

    step: int
    params: dict[str, Any]
    params_ema: dict[str, Any] | None


def is_flax(path: str | Path) -> bool:
    """Whether a file begins as a state of flax does, with a map whose first key is a name."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(33)
    # Other formats begin with the same bytes by chance; none of them goes on with such a name.
    key = re.match(rb"[\x81-\x8f]([\xa1-\xbf])([a-z_]+)", head)
    return key is not None and len(key[2]) >= key[1][0] & 0x1F


def read_flax(path: str | Path) -> FlaxState:
    """Read a checkpoint of the original code, `checkpoint_N`.

    Args:
        path: The file.

    Raises:
        ValueError: The file is no msgpack, or no state of that code.
        OSError: The file cannot be read.
    """
    try:
        # Mapped, so that of the optimizer's state no more is read than need be; and privately,
        # so that tensors, which can always be written to, may share the memory.
        state = decode(np.memmap(path, dtype=np.uint8, mode="c").data)
    except ValueError as error:
        raise ValueError(f"{path} is not a checkpoint of flax: {error}") from error
    match state:
        case {"step": step, "optimizer": {"target": dict(params)}}:
            pass
        case _:
            raise ValueError(
                f"{path} is not a checkpoint of score_sde: it lacks a step, or an optimizer with "
                "the parameters as its target"
            )
    if isinstance(step, Tensor) and step.numel() == 1:
        step = step.item()
    mean = state.get("params_ema")
    if not isinstance(step, int) or not isinstance(mean, dict | None):
        raise ValueError(
            f"{path} is not a checkpoint of score_sde: its step is no whole number, or its "
            "params_ema are no parameters"
        )
    return {
        "step": step,
        "params": _inner(params),
        "params_ema": None if mean is None else _inner(mean),
    }


def _inner(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the network itself, out of what a wrapper or a collection put around it."""
    while len(params) == 1:
        ((name, inner),) = params.items()
        if name not in (*WRAPPERS, "params") or not isinstance(inner, dict):
            break
        params = inner
    return params


def flatten(params: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of the tensors of nested parameters by their names, joined by `/`.

    Copies, because one view of a file's bytes would keep all of them in memory. Scales and biases
    of normalisations become vectors, as in today's flax; up to 0.3 their shape was (1, 1, 1, C).

    Raises:
        ValueError: A parameter that is no array.
    """
    return {
        name: (_vector(value) if _NORM.search(name) else value).clone()
        for name, value in _leaves(params, "")
    }


_NORM = re.compile(r"(^|/)GroupNorm_\d+/(scale|bias)$")


def _vector(tensor: Tensor) -> Tensor:
    return tensor.flatten() if tensor.shape[:-1].numel() == 1 else tensor


def _leaves(params: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in params.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}/")
        elif isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        else:
            raise ValueError(f"parameter {prefix}{key} is no array: {type(value).__name__}")


def rows(net: UNet) -> list[Row]:
    """The table of the names of flax, as `flatten` gives them, for a network of that code.

    A network with `ddpm` blocks and one channel per group, which leaves 32 groups, is its `ddpm`,
    every other one its `ncsnpp`.

    Args:
        net: The network.
    """
    names = _Names(net)
    return [row for part in parts(net) for row in names.of(part)]


class _Scope:
    """A compact module: the prefix of the names in it, and how many it has made of each class."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.made: Counter[str] = Counter()

    def make(self, kind: str) -> "_Scope":
        """The next submodule of that class."""
        scope = _Scope(f"{self.prefix}{kind}_{self.made[kind]}/")
        self.made[kind] += 1
        return scope

    def layer(self, kind: str, ours: str) -> list[Row]:
        """The next layer of that class, with a weight and a bias."""
        prefix = self.make(kind).prefix
        weight, bias = _TENSORS[kind]
        theirs = prefix + weight
        if kind in ("Conv", "Conv2d"):
            turned = _convolution(theirs, f"{ours}.weight")
        elif kind == "Dense":
            turned = transposed(theirs, f"{ours}.weight")
        else:
            turned = Row(theirs, (f"{ours}.weight",))
        return [turned, Row(prefix + bias, (f"{ours}.bias",))]


_TENSORS = {
    "Conv": ("kernel", "bias"),
    "Conv2d": ("weight", "bias"),  # score_sde's own, with a FIR filter
    "Dense": ("kernel", "bias"),
    "GroupNorm": ("scale", "bias"),
    "NIN": ("W", "b"),
}


def _convolution(theirs: str, ours: str) -> Row:
    """A kernel that they store as (height, width, in, out)."""
    return Row(
        theirs,
        (ours,),
        lambda w: (w.permute(3, 2, 0, 1),),
        lambda tensors: tensors[0].permute(2, 3, 1, 0),
    )


class _Names:
    """The names of one network's parts; they must be asked for in the order of construction."""

    def __init__(self, net: UNet) -> None:
        self.top = _Scope()
        self.block, self.attention = "ResnetBlockBigGANpp", "AttnBlockpp"
        if net.resblock_type == "ddpm":
            self.block = "ResnetBlockDDPMpp"
            if net.options.channels_per_group == 1:
                self.block, self.attention = "ResnetBlockDDPM", "AttnBlock"

    def of(self, part: Part) -> list[Row]:
        """The rows of the next part."""
        match part.role:
            case "fourier":
                prefix = self.top.make("GaussianFourierProjection").prefix
                return [Row(f"{prefix}W", (f"{part.name}.W",))]
            case "dense":
                return self.top.layer("Dense", part.name)
            case "conv_in" | "conv_out":
                return self.top.layer("Conv", part.name)
            case "norm_out":
                return self.top.layer("GroupNorm", part.name)
            case "block":
                return self._block(part.name, part.module)
            case "attention":
                at, kinds = self.top.make(self.attention), ("q", "k", "v", "out")
                table = at.layer("GroupNorm", f"{part.name}.norm")
                return table + [r for kind in kinds for r in at.layer("NIN", f"{part.name}.{kind}")]
            case "step" if isinstance(part.module, BigGANBlock):
                return self._block(part.name, part.module)
            case "step":
                return self._resample(part.way, f"{part.name}.layer", part.module.layer)
            case "pyramid":
                return self._pyramid(part)
        raise ValueError(f"the original code has no part {part.name}")

    def _block(self, name: str, block: Any) -> list[Row]:
        at, branch = self.top.make(self.block), f"{name}.branch"
        table = at.layer("GroupNorm", f"{branch}.norm_0") + at.layer("Conv", f"{branch}.conv_0")
        if block.branch.dense is not None:
            table += at.layer("Dense", f"{branch}.dense")
        table += at.layer("GroupNorm", f"{branch}.norm_1") + at.layer("Conv", f"{branch}.conv_1")
        if isinstance(block.shortcut, nn.Conv2d | NIN):
            kind = "NIN" if isinstance(block.shortcut, NIN) else "Conv"
            table += at.layer(kind, f"{name}.shortcut")
        return table

    def _resample(self, way: str, name: str, resample: Any) -> list[Row]:
        at = self.top.make("Downsample" if way == "down" else "Upsample")
        if not isinstance(resample, DownsampleConv2d | UpsampleConv2d):
            return []
        return at.layer("Conv" if resample.kernel is None else "Conv2d", f"{name}.conv")

    def _pyramid(self, part: Part) -> list[Row]:
        name, pyramid = part.name, part.module
        if isinstance(pyramid, InputSkip):
            self.top.make("Downsample")
            return self.top.make("Combine").layer("Conv", f"{name}.conv")
        if isinstance(pyramid, OutputSkip):
            if pyramid.up is not None:
                self.top.make("Upsample")
            head = self.top.layer("GroupNorm", f"{name}.head.0")
            return head + self.top.layer("Conv", f"{name}.head.2")
        return self._resample(part.way, f"{name}.resample", pyramid.resample)
