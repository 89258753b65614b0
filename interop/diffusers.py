"""Models of diffusers, a `UNet2DModel` alone or in the folder of a pipeline: read and written.

Two layouts of `UNet2DModel` are networks of ours: DDPM's (`DownBlock2D`, `AttnDownBlock2D` and
their blocks on the way up, as in google/ddpm-cifar10-32), and that of NCSN++ with pyramids of
images (`SkipDownBlock2D`, `AttnSkipDownBlock2D`, …, as in google/ncsnpp-celebahq-256). The
configuration of the scheduler determines the process. `diffusers_files` finds the files.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from scoresde.models import ScoreModel, UNet
from scoresde.models.file import whole
from scoresde.models.layers import NIN
from scoresde.sde import SDE

from . import diffusers_network, diffusers_process
from .diffusers_files import WEIGHTS, Place, find_place, read_config, read_network, read_weights
from .files import replacing
from .table import PIXELWISE, SAME, TRANSPOSED, Form, Row, layer, read, write
from .unet import DIFFUSERS_LAYERS, Part, layers, parts

log = logging.getLogger(__name__)
# Names of the four matrices of attention in files from before 2023.
FORMERLY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_diffusers(folder: str | Path, sde: SDE | None = None, ema: bool = True) -> ScoreModel:
    """The model in a folder of diffusers, on the CPU in evaluation mode.

    Args:
        folder: Folder of a pipeline (`model_index.json`, `unet/`, `scheduler/`), folder of a
            `UNet2DModel` alone (`config.json` and its weights in safetensors or PyTorch's format),
            or a file in one of these. The scheduler is the one in that folder or next to it.
        sde: Process of the network; that of the scheduler by default. Without a scheduler, DDPM's
            chain is assumed, or for a Fourier embedding the VE of diffusers' scheduler, with a
            warning.
        ema: Whether to take the averaged weights where there are both, as in `unet_ema` next to
            `unet` in a checkpoint of diffusers' training script. Either folder can be given itself.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is damaged or has a setting that is not supported; the message names it.
            Or ema is false and there is one set of weights.
        TypeError: sde is no process.

    Reference: huggingface.co/docs/diffusers, `UNet2DModel`, `DDPMPipeline`, `ScoreSdeVePipeline`.
    """
    folder = Path(folder)
    if sde is not None and not callable(getattr(sde, "alpha", None)):
        raise TypeError(f"sde must be a process such as VP(), got {sde!r}")
    place = find_place(folder, ema)
    config = read_network(place.network)
    scheduler = None if place.scheduler is None else read_config(place.scheduler)
    with whole(place.network / "config.json"):
        net = diffusers_network.build(config, place.network)
    with whole(f"the scheduler's configuration in {folder}"):
        wrapped = diffusers_process.wrapping(config, scheduler or {})
        if sde is None:
            if scheduler is None:
                scheduler = diffusers_process.assumed(config)
                log.warning(
                    "%s has no scheduler_config.json: assumed %s with its default constants; give "
                    "sde= in Python, or put the scheduler next to it",
                    *(folder, scheduler["_class_name"]),
                )
            sde = diffusers_process.process(scheduler, folder)
    ours = read(rows(net, _flipped(config)), _tensors(place), net.state_dict(), place.network)
    net.load_state_dict(ours, assign=True)
    return ScoreModel(net, sde, **wrapped).eval()


def save_diffusers(model: ScoreModel, folder: str | Path) -> Path:
    """Write a model as a pipeline that diffusers loads: `DDPMPipeline` or `ScoreSdeVePipeline`.

    Args:
        model: Model.
        folder: Folder of the pipeline, which is created if necessary.

    Returns:
        The folder.

    Raises:
        ValueError: diffusers has no such network, process or parameterization; the message names
            the difference.
        FileExistsError: The folder already holds a pipeline.
    """
    folder = Path(folder)
    config = diffusers_network.config(model)
    net = model.net
    assert isinstance(net, UNet)  # other networks have no configuration
    scheduler, pipeline = diffusers_process.scheduler(model)
    targets = ("model_index.json", "unet", "scheduler")
    if folder.is_file() or any((folder / name).exists() for name in targets):
        raise FileExistsError(f"{folder} is a file or already holds a model; use another folder")
    tensors = write(rows(net, flipped=False), net.state_dict())
    with replacing(folder / "unet" / f"{WEIGHTS}.safetensors") as temporary:
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(plain, temporary, metadata={"format": "pt"})
    _write(folder / "unet" / "config.json", config)
    _write(folder / "scheduler" / "scheduler_config.json", scheduler)
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.35.0"}
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    index["unet"] = ["diffusers", "UNet2DModel"]
    _write(folder / "model_index.json", index)
    return folder


def rows(net: UNet, flipped: bool) -> list[Row]:
    """The table of diffusers' names for a network.

    Args:
        net: Network.
        flipped: Whether their embedding has the cosines first; ours has the sines first.
    """
    table: list[Row] = []
    for part in parts(net):
        theirs, first = _name(part, net), part.role == "dense" and part.number == 0
        if part.role == "fourier":
            table.append(Row(f"{theirs}.weight", (f"{part.name}.W",)))
        for one in layers(part):
            name, form = theirs + DIFFUSERS_LAYERS[one.place], SAME
            if one.place.startswith("head") and part.level == 0:
                name = {"head.0": "conv_norm_out", "head.2": "conv_out"}[one.place]
            if isinstance(one.module, NIN):
                form = PIXELWISE if one.place == "shortcut" else TRANSPOSED
            table += layer(name, one.name, SWAPPED if first and flipped else form)
    return table


def _swap(weight: Tensor) -> Tensor:
    """Exchange the columns for cosines and sines; an odd number of columns ends with a zero."""
    half = weight.shape[1] // 2
    return torch.cat([weight[:, half : 2 * half], weight[:, :half], weight[:, 2 * half :]], 1)


SWAPPED = Form(lambda theirs: (_swap(theirs),), lambda ours: _swap(ours[0]))


def _name(part: Part, net: UNet) -> str:
    """The name of a layer in `UNet2DModel`."""
    single = {"fourier": "time_proj", "norm_out": "conv_norm_out"}
    if part.role in single:
        return single[part.role]
    if part.role == "dense":
        return f"time_embedding.linear_{part.number + 1}"
    if part.way in ("in", "out"):
        return part.role
    number = len(net.widths) - 1 - part.level if part.way == "up" else part.level
    place = "mid_block" if part.way == "middle" else f"{part.way}_blocks.{number}"
    if part.role == "block":
        return f"{place}.resnets.{part.number}"
    if part.role == "attention":
        each = part.way == "down" or (part.way == "up" and net.attn_up == "each")
        return f"{place}.attentions.{part.number if each else 0}"
    if part.role == "step" and hasattr(part.module, "branch"):
        return f"{place}.resnet_{part.way}"
    return f"{place}.{part.way}samplers.0" if part.role == "step" else place


def _tensors(place: Place) -> dict[str, Tensor]:
    """The weights of a place by their current names."""
    weights = read_weights(place)
    trained = [name for name in weights.raw if name != "time_proj.weight"]
    # A file is taken as it is where raw and averaged weights are in different folders.
    ema = True if place.ema is None else place.ema
    state = weights.chosen(ema, trained, place.weights or place.network)
    return {_current(name): tensor for name, tensor in state.items()}


def _current(name: str) -> str:
    """The current name of a tensor, from that of an old file."""
    *place, kind = name.split(".")
    if "attentions" in place:
        place[-1] = FORMERLY.get(place[-1], place[-1])
    return ".".join([*place, kind])


def _flipped(config: Mapping[str, Any]) -> bool:
    """Whether the embedding has the cosines first, which a Fourier embedding never has."""
    positional = config.get("time_embedding_type", "positional") == "positional"
    return positional and config.get("flip_sin_to_cos", True)


def _write(path: Path, fields: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
