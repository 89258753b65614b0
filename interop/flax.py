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
from scoresde.models.resample import InputSkip, OutputSkip

from .msgpack import decode
from .table import CHANNELS_LAST, SAME, TRANSPOSED, Row, layer
from .unet import Part, layers, parts


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
    """
    block, attention = "ResnetBlockBigGANpp", "AttnBlockpp"
    if net.resblock_type == "ddpm":
        block = "ResnetBlockDDPMpp"
        if net.options.channels_per_group == 1:
            block, attention = "ResnetBlockDDPM", "AttnBlock"
    top, table = _Scope(), list[Row]()
    for part in parts(net):
        scope = _scope(part, top, block, attention)
        if part.role == "fourier":
            table.append(Row(f"{scope.prefix}W", (f"{part.name}.W",)))
        for one in layers(part):
            table += scope.layer("Conv2d" if one.filtered else _KINDS[type(one.module)], one.name)
    return table


def _scope(part: Part, top: "_Scope", block: str, attention: str) -> "_Scope":
    """The module that holds the layers of the next part, in the order of construction."""
    resample, module = "Downsample" if part.way == "down" else "Upsample", part.module
    if part.role == "fourier":
        return top.make("GaussianFourierProjection")
    if part.role == "attention":
        return top.make(attention)
    if part.role == "block" or isinstance(module, BigGANBlock):
        return top.make(block)
    if isinstance(module, InputSkip):
        top.make(resample)
        return top.make("Combine")
    if isinstance(module, OutputSkip):
        if module.up is not None:
            top.make(resample)
        return top
    return top.make(resample) if part.role in ("step", "pyramid") else top


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
_KINDS = {nn.Conv2d: "Conv", nn.Linear: "Dense", nn.GroupNorm: "GroupNorm", NIN: "NIN"}
