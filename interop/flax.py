"""Checkpoints of the original score-SDE code, which was written in JAX; read without JAX.

Such a file is the state of a training run in msgpack. A compact module of flax names its submodules
by class and number, which counts the submodules of that class, also those without parameters, in
the order of their construction. Images have their channels last, and convolutions are stored as
(height, width, in, out); the transposed convolution before a FIR filter also correlates with its
stored kernel, and is converted in the same way.

Reference: Song et al. 2021, arXiv:2011.13456; https://flax.readthedocs.io
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from scoresde.models import UNet
from scoresde.models.layers import NIN, BigGANBlock
from scoresde.models.names import WRAPPERS
from scoresde.models.resample import DownsampleConv2d, InputSkip, OutputSkip, UpsampleConv2d

from .msgpack import decode
from .table import CHANNELS_LAST, SAME, TRANSPOSED, Row, layer
from .unet import Part, parts


class FlaxState(NamedTuple):
    """The network in a checkpoint.

    Attributes:
        step: Number of training steps.
        params: Parameters by their names in flax, nested.
        params_ema: Their exponential moving average, or None if the file has none.
    """

    step: int
    params: dict[str, Any]
    params_ema: dict[str, Any] | None


def is_flax(path: str | Path) -> bool:
    """Whether a file begins like a state of flax, with a map whose first key is a name."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(33)
    # Other formats can begin with the same bytes, but not with such a name after them.
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
        # The file is mapped, so that unused parts of the optimizer's state are not read. The map is
        # private, because tensors share its memory and can be written to.
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
    return FlaxState(step, _inner(params), None if mean is None else _inner(mean))


def _inner(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the network itself, without the names of wrappers and collections."""
    while len(params) == 1:
        ((name, inner),) = params.items()
        if name not in (*WRAPPERS, "params") or not isinstance(inner, dict):
            break
        params = inner
    return params


def flatten(params: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of the tensors of nested parameters by their names, joined by `/`.

    They are copies because a single view would keep all bytes of the file in memory. Scales and
    biases of normalizations become vectors, whose shape was (1, 1, 1, C) up to flax 0.3.

    Raises:
        ValueError: A parameter is no array.
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
    """The table of flax's names, as `flatten` gives them, for a network of that code.

    Networks with `ddpm` blocks and one channel per group, and thus 32 groups, are its `ddpm`, all
    others its `ncsnpp`.

    Args:
        net: The network.
    """
    names = _Names(net)
    return [row for part in parts(net) for row in names.of(part)]


class _Scope:
    """A compact module: the prefix of its names, and the number of its submodules of each class."""

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
        form, *names = _TENSORS[kind]
        return layer(self.make(kind).prefix, ours, form, names)


_TENSORS = {
    "Conv": (CHANNELS_LAST, "kernel", "bias"),
    "Conv2d": (CHANNELS_LAST, "weight", "bias"),  # score_sde's own, with a FIR filter
    "Dense": (TRANSPOSED, "kernel", "bias"),
    "GroupNorm": (SAME, "scale", "bias"),
    "NIN": (SAME, "W", "b"),
}


class _Names:
    """The names of one network's parts, which must be requested in the order of construction."""

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
