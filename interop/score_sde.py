"""Checkpoints of score-SDE, the code of Song et al. 2021 (arXiv:2011.13456): read and written.

A checkpoint is `{optimizer, model, ema: {decay, num_updates, shadow_params}, step}`. `model` has
names, which count the layers in the order of their construction; `shadow_params` is a bare list, of
the parameters in the same order. What the networks mean (process, range of the data, ...) is in a
configuration, a Python file of its own there; here it is a mapping in the same field names, or a
JSON beside the checkpoint.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.models import RefineNet, ScoreModel, UNet
from scoresde.models.file import whole
from scoresde.models.layers import NIN
from scoresde.models.resample import InputSkip, OutputSkip

from . import flax, refinenet
from .configuration import configuration, meaning
from .fields import GIVE, read_configuration
from .files import load_tensors
from .shapes import guess
from .table import Row, layer, read
from .unet import Part, parts
from .weights import RAW, Weights, find_weights, one_set, tensor_names

BLOCK = {
    "GroupNorm_0": "branch.norm_0",
    "Conv_0": "branch.conv_0",
    "Dense_0": "branch.dense",
    "GroupNorm_1": "branch.norm_1",
    "Conv_1": "branch.conv_1",
}
ATTENTION = {"NIN_0": "q", "NIN_1": "k", "NIN_2": "v", "NIN_3": "out"}


def load_score_sde(
    path: str | Path, config: Mapping[str, Any] | str | Path | None = None, ema: bool = True
) -> ScoreModel:
    """The model in a checkpoint of score-SDE, PyTorch's or JAX's, on the CPU in evaluation mode.

    Without a configuration the network is read off the shapes of its tensors, and what no shape
    shows is taken as Song et al. published it: Fourier embeddings are VE's, an NCSN++ with
    sinusoidal ones is VE's chain where the decay of the average is VE's and else VP's (not
    sub-VP's), networks without pyramids, filters and BigGAN blocks are DDPM's and its chain's; skip
    connections are rescaled in all but DDPM, pyramids have FIR filters. Images may be of any size
    that divides. A warning says what was assumed.

    Args:
        path: Checkpoint; it is read as tensors and plain values, and nothing in it is run.
        config: Configuration in the field names of score-SDE, {model, data, training}, or a JSON or
            YAML file of it. Where it is not given, a JSON of the checkpoint's name is taken.
        ema: Whether to take the averaged weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or foreign, or does not fit the configuration.

    Reference: Song et al. 2021, arXiv:2011.13456.
    """
    path = Path(path)
    if config is None:
        config = _beside(path)
    if config is not None:
        config = read_configuration(config)
    if path.is_file() and flax.is_flax(path):
        return _load_flax(path, config, ema)
    weights = _weights(path, ema)
    state = dict(weights.raw)
    with whole(path):
        shown = {name: tuple(tensor.shape) for name, tensor in state.items() if name != "sigmas"}
        if config is None:
            config = guess(shown, state.get("sigmas"), weights.decay, path)
        net, sde, wrapped = meaning(config)
        table = rows(net)
        if ema:
            trained = [row.theirs for row in table if not _is_frequency(row)]
            state |= weights.averaged(trained, path)
        _check_levels(state.pop("sigmas", None), config, path)
        return _whole(net, read(table, state, net.state_dict(), path), sde, wrapped, weights.step)


def save_score_sde(model: ScoreModel, path: str | Path, step: int | None = None) -> Path:
    """Write a model as a checkpoint of score-SDE, and its configuration as a JSON beside it.

    The raw and the averaged weights are both the model's, and the optimizer starts afresh.

    Args:
        model: Model.
        path: Checkpoint, as a rule `checkpoint_N.pth`.
        step: Number of training steps; the model's own where not given.

    Returns:
        The path.

    Raises:
        ValueError: score-SDE has no such network or process.
        FileExistsError: The checkpoint or its configuration is there.
    """
    path = Path(path)
    if path.suffix in ("", ".json"):
        raise ValueError(f"a checkpoint is named checkpoint_N.pth, say, not {path.name}")
    config = configuration(model)
    for taken in (path, path.with_suffix(".json")):
        if taken.exists():
            raise FileExistsError(f"{taken} is there; choose another name")
    ours, table = model.net.state_dict(), rows(model.net)
    named = {row.theirs: row.merge([ours[name] for name in row.ours]) for row in table}
    trained = [named[row.theirs].contiguous() for row in table if not _is_frequency(row)]
    # Its optimizer is given the Fourier projection as well, its average is not.
    optimizer = torch.optim.Adam([nn.Parameter(tensor) for tensor in named.values()], lr=2e-4)
    count = step if step is not None else model.step or 0
    decay = config["model"]["ema_rate"]
    checkpoint = {
        "optimizer": optimizer.state_dict(),
        "model": {"module.sigmas": _sigmas(config)}
        | {f"module.{name}": tensor.contiguous() for name, tensor in named.items()},
        "ema": {"decay": decay, "num_updates": count, "shadow_params": trained},
        "step": count,
    }
    _write(checkpoint, config, path)
    return path


def rows(net: nn.Module) -> list[Row]:
    """The table of names of a network, in the order in which score-SDE constructs it."""
    if isinstance(net, RefineNet):
        return refinenet.rows(net)
    if not isinstance(net, UNet):
        raise ValueError(f"score-SDE has no network like {type(net).__name__}")
    table: list[Row] = []
    number = 0
    for part in parts(net):
        if isinstance(part.module, OutputSkip):  # a normalisation and a convolution
            table += layer(f"all_modules.{number}", f"{part.name}.head.0")
            table += layer(f"all_modules.{number + 1}", f"{part.name}.head.2")
            number += 2
            continue
        table += _part(part, f"all_modules.{number}")
        number += 1
    return table


def _part(part: Part, theirs: str) -> list[Row]:
    ours, module = part.name, part.module
    if part.role == "fourier":
        return [Row(f"{theirs}.W", (f"{ours}.W",))]
    if part.role == "attention":
        table = layer(f"{theirs}.GroupNorm_0", f"{ours}.norm")
        for name, own in ATTENTION.items():
            table += _nin(f"{theirs}.{name}", f"{ours}.{own}")
        return table
    if isinstance(module, InputSkip):
        return layer(f"{theirs}.Conv_0", f"{ours}.conv")
    if hasattr(module, "branch"):
        return _block(module, theirs, ours)
    inner = {"layer": getattr(module, "layer", None), "resample": getattr(module, "resample", None)}
    for name, resampler in inner.items():  # a learned change of resolution, or one without weights
        if resampler is not None:
            own = "Conv_0" if getattr(resampler, "kernel", None) is None else "Conv2d_0"
            known = hasattr(resampler, "conv")
            return layer(f"{theirs}.{own}", f"{ours}.{name}.conv") if known else []
    return layer(theirs, ours)


def _block(module: nn.Module, theirs: str, ours: str) -> list[Row]:
    table: list[Row] = []
    for name, own in BLOCK.items():
        if getattr(module.branch, own.rpartition(".")[2]) is not None:  # no Dense_0 without label
            table += layer(f"{theirs}.{name}", f"{ours}.{own}")
    shortcut = getattr(module, "shortcut", None)
    if isinstance(shortcut, NIN):
        table += _nin(f"{theirs}.NIN_0", f"{ours}.shortcut")
    elif isinstance(shortcut, nn.Conv2d):
        table += layer(f"{theirs}.Conv_2", f"{ours}.shortcut")
    return table


def _nin(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.W", (f"{ours}.weight",)), Row(f"{theirs}.b", (f"{ours}.bias",))]


def _is_frequency(row: Row) -> bool:
    """Whether a tensor is the Fourier projection, which is not trained and has no average."""
    return row.ours == ("embedding.embed.W",)


def _beside(path: Path) -> Path | None:
    """The configuration next to a checkpoint, or next to what a link to it leads to."""
    for place in (path, path.resolve()):
        if place.with_suffix(".json").is_file():
            return place.with_suffix(".json")
    return None


def _weights(path: Path, ema: bool) -> Weights:
    """The weights of a file, by the names of score-SDE; an average alone is refused as raw."""
    found = load_tensors(path)
    names = tensor_names(found)
    if not names:
        raise ValueError(f"{path} is no checkpoint of score-SDE: it has no tensors under 'model'")
    if not is_named(names):
        raise ValueError(
            f"{path} is no checkpoint of score-SDE: its tensors are named "
            f"{', '.join(names[:3])}, not all_modules.N or begin_conv"
        )
    weights = find_weights(found, path)
    if weights.raw or not isinstance(weights.average, Mapping):
        return weights
    if not ema:
        raise one_set(path)
    return replace(weights, raw=dict(weights.average))  # whose shapes tell the network as well


def is_named(names: Sequence[str]) -> bool:
    """Whether bare names are those of a checkpoint of score-SDE."""
    return any(name.startswith(("all_modules.", "begin_conv.")) for name in names)


def _check_levels(sigmas: Tensor | None, config: Mapping[str, Any], path: Path) -> None:
    """Refuse levels σ beside the network that are not those of its VE."""
    if sigmas is None or str(config["training"]["sde"]).lower() != "vesde":
        return
    own, chain = _sigmas(config), not config["training"]["continuous"]
    ends = (sigmas.flatten()[[0, -1]].float(), own[[0, -1]])
    if not torch.allclose(*ends, rtol=1e-3, atol=0) or (chain and sigmas.numel() != len(own)):
        raise ValueError(
            f"{path} has {sigmas.numel()} levels σ from {ends[0][0]:.5g} to {ends[0][1]:.5g}, "
            f"its configuration {len(own)} from {own[0]:.5g} to {own[-1]:.5g}"
        )


def _load_flax(path: Path, config: Mapping[str, Any] | None, ema: bool) -> ScoreModel:
    if config is None:
        raise ValueError(
            f"{path} is a flax checkpoint, whose names do not tell where in the network attention "
            f"and pyramids are; give the fields of score-SDE's configuration: {GIVE}"
        )
    saved = flax.read_flax(path)
    params = saved["params_ema"] if ema else saved["params"]
    if params is None:
        raise ValueError(f"{path} has no averaged weights; use {RAW}, for the raw ones")
    with whole(path):
        net, sde, wrapped = meaning(config)
    if not isinstance(net, UNet):
        raise ValueError(f"of flax checkpoints only U-Nets are read, got {config['model']['name']}")
    state = read(flax.rows(net), flax.flatten(params), net.state_dict(), path)
    return _whole(net, state, sde, wrapped, saved["step"])


def _whole(
    net: nn.Module, state: dict[str, Tensor], sde: Any, wrapped: dict[str, Any], step: Any
) -> ScoreModel:
    net.load_state_dict(state, assign=True)
    model = ScoreModel(net, sde, **wrapped).eval()
    model.step = int(step) if isinstance(step, int | float | Tensor) else None
    return model


def _sigmas(config: Mapping[str, Any]) -> Tensor:
    """The buffer of levels that every network has there, from the noisiest."""
    model = config["model"]
    first, last = math.log(model["sigma_max"]), math.log(model["sigma_min"])
    return torch.linspace(first, last, model["num_scales"], dtype=torch.float64).exp().float()


def _write(checkpoint: dict[str, Any], config: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside = temporary.with_suffix(".json.tmp")
    try:
        torch.save(checkpoint, temporary)
        beside.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, path.with_suffix(".json"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)
