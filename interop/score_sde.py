"""Checkpoints of score-SDE, the code of Song et al. 2021 (arXiv:2011.13456): read and written.

A checkpoint is `{optimizer, model, ema: {decay, num_updates, shadow_params}, step}`. The names in
`model` number the layers in the order of their construction; `shadow_params` is a list of the
parameters in the same order. The process, the range of the data and so on are in a configuration,
which is a Python file there; here it is a mapping with the same field names, or a JSON file next to
the checkpoint.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.models import RefineNet, ScoreModel, UNet
from scoresde.models.file import whole
from scoresde.models.layers import NIN

from . import flax, refinenet
from .configuration import configuration, meaning
from .fields import GIVE, read_configuration
from .files import load_tensors, replacing
from .shapes import guess
from .table import Row, layer, read, write
from .unet import SCORE_SDE_LAYERS, Layer, layers, parts
from .weights import RAW, Weights, find_weights, one_set, tensor_names


def load_score_sde(
    path: str | Path, config: Mapping[str, Any] | str | Path | None = None, ema: bool = True
) -> ScoreModel:
    """The model in a checkpoint of score-SDE, PyTorch's or JAX's, on the CPU in evaluation mode.

    Without a configuration, the network is inferred from the shapes of its tensors, and the rest is
    assumed to be as published by Song et al.: VE for Fourier embeddings; for an NCSN++ with
    sinusoidal embeddings the chain of VE if the decay of the average is VE's, otherwise VP (not
    sub-VP); DDPM and its chain for networks without pyramids, filters and BigGAN blocks. Skip
    connections are rescaled in all networks but DDPM, and pyramids have FIR filters. Images may
    have any size that divides. A warning states the assumptions.

    Args:
        path: Checkpoint, which is read as tensors and plain values; no code in it is run.
        config: Configuration with the field names of score-SDE, {model, data, training}, or a JSON
            or YAML file of it; a JSON file with the name of the checkpoint by default.
        ema: Whether to take the averaged weights.

    Raises:
        FileNotFoundError: The file does not exist.
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
    """Write a model as a checkpoint of score-SDE, and its configuration as a JSON file next to it.

    The raw and the averaged weights are both those of the model, and the optimizer is a new one.

    Args:
        model: Model.
        path: Checkpoint, usually `checkpoint_N.pth`.
        step: Number of training steps; that of the model by default.

    Returns:
        The path.

    Raises:
        ValueError: score-SDE has no such network or process.
        FileExistsError: The checkpoint or its configuration already exists.
    """
    path = Path(path)
    if path.suffix in ("", ".json"):
        raise ValueError(f"a checkpoint is named checkpoint_N.pth, say, not {path.name}")
    config = configuration(model)
    for taken in (path, path.with_suffix(".json")):
        if taken.exists():
            raise FileExistsError(f"{taken} is there; choose another name")
    table = rows(model.net)
    named = write(table, model.net.state_dict())
    trained = [named[row.theirs].contiguous() for row in table if not _is_frequency(row)]
    # Their optimizer holds the Fourier projection too, their average does not.
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
    with replacing(path) as temporary, replacing(path.with_suffix(".json")) as document:
        torch.save(checkpoint, temporary)
        document.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
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
        if part.role == "fourier":
            table.append(Row(f"all_modules.{number}.W", (f"{part.name}.W",)))
        for one in layers(part):
            number += one.place == "head.2"  # an output pyramid counts as two modules
            names = (".W", ".b") if isinstance(one.module, NIN) else (".weight", ".bias")
            table += layer(f"all_modules.{number}{_place(one)}", one.name, names=names)
        number += 1
    return table


def _place(one: Layer) -> str:
    """The name of a layer within its module of score-SDE."""
    if one.place == "shortcut" and isinstance(one.module, NIN):
        return ".NIN_0"
    return ".Conv2d_0" if one.filtered else SCORE_SDE_LAYERS[one.place]


def _is_frequency(row: Row) -> bool:
    """Whether a tensor is the Fourier projection, which is neither trained nor averaged."""
    return row.ours == ("embedding.embed.W",)


def _beside(path: Path) -> Path | None:
    """The configuration next to a checkpoint, or next to the target of a link to it."""
    for place in (path, path.resolve()):
        if place.with_suffix(".json").is_file():
            return place.with_suffix(".json")
    return None


def _weights(path: Path, ema: bool) -> Weights:
    """The weights of a file with the names of score-SDE; an average alone has no raw weights."""
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
    return replace(weights, raw=dict(weights.average))  # its shapes show the network as well


def is_named(names: Sequence[str]) -> bool:
    """Whether bare names are those of a checkpoint of score-SDE."""
    return any(name.startswith(("all_modules.", "begin_conv.")) for name in names)


def _check_levels(sigmas: Tensor | None, config: Mapping[str, Any], path: Path) -> None:
    """Refuse levels σ in a checkpoint that differ from those of its VE."""
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
            f"{path} is a flax checkpoint, whose names do not show where the network has attention "
            f"and pyramids; give the fields of score-SDE's configuration: {GIVE}"
        )
    step, raw, average = flax.read_flax(path)
    params = average if ema else raw
    if params is None:
        raise ValueError(f"{path} has no averaged weights; use {RAW}, for the raw ones")
    with whole(path):
        net, sde, wrapped = meaning(config)
    if not isinstance(net, UNet):
        raise ValueError(f"of flax checkpoints only U-Nets are read, got {config['model']['name']}")
    state = read(flax.rows(net), flax.flatten(params), net.state_dict(), path)
    return _whole(net, state, sde, wrapped, step)


def _whole(
    net: nn.Module, state: dict[str, Tensor], sde: Any, wrapped: dict[str, Any], step: Any
) -> ScoreModel:
    net.load_state_dict(state, assign=True)
    model = ScoreModel(net, sde, **wrapped).eval()
    model.step = int(step) if isinstance(step, int | float | Tensor) else None
    return model


def _sigmas(config: Mapping[str, Any]) -> Tensor:
    """The buffer of noise levels that every network has there, in decreasing order."""
    model = config["model"]
    first, last = math.log(model["sigma_max"]), math.log(model["sigma_min"])
    return torch.linspace(first, last, model["num_scales"], dtype=torch.float64).exp().float()
