"""The model of a run: built from its configuration, or read from a training's checkpoint."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from scoresde.models import ScoreModel
from scoresde.models.file import whole
from scoresde.models.names import fitted
from scoresde.sde import SDE, current_names
from scoresde.sde.description import current_name
from scoresde.training import checkpoint


def make(leaf: DictConfig, **wires: Any) -> Any:
    """Instantiate a leaf of the configuration, with plain lists and dicts as arguments."""
    plain = current_names(OmegaConf.to_container(leaf, resolve=True, throw_on_missing=True))
    return instantiate(plain, _convert_="all", **wires)


def score_model(
    cfg: DictConfig,
    sde: SDE,
    shape: Sequence[int],
    data_range: tuple[float, float] | None,
    classes: int | None = None,
) -> ScoreModel:
    """The model of `cfg.model` for samples of a shape and a range, that is told so many classes.

    Raises:
        ValueError: The network can be told none.
    """
    wires: dict[str, Any] = {"shape": tuple(shape)}
    if classes is not None:
        name = current_name(str(cfg.model.net._target_))
        if "classes" not in inspect.signature(get_object(name)).parameters:
            raise ValueError(
                f"condition=label needs a network with class labels, and {name} has none; use "
                "model=unet, or model=mlp for points"
            )
        wires["classes"] = classes
    features = cfg.model.get("fourier_features")
    if features or cfg.model.get("learned_variance"):
        channels, *size = shape
        wires["shape"] = (channels * (1 + 2 * len(features or ())), *size)
        wires["out_channels"] = channels * (2 if cfg.model.get("learned_variance") else 1)
    net = make(cfg.model.net, **wires)
    meaning = {key: value for key, value in cfg.model.items() if key != "net"}
    return ScoreModel(net, sde, data_range=data_range, **meaning)


def fill(module: nn.Module, state: Mapping[str, Any], source: object) -> None:
    """Give a network the weights of a checkpoint, whatever wrapped it when they were saved.

    Raises:
        ValueError: They do not fit; the source is named.
    """
    with whole(source):
        module.load_state_dict(fitted(state, module.state_dict()))


def load_trained(path: str | Path, ema: bool = True) -> ScoreModel:
    """The model of a training, by the configuration that its checkpoint carries.

    Args:
        path: A checkpoint, or a run's folder, of which the newest is taken.
        ema: Whether to take the averaged weights.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It cannot be read, or is of a training of something else.
    """
    path, state = checkpoint.find(Path(path))
    cfg = OmegaConf.create(state["config"])
    task = cfg.get("task", "generate")  # which runs did not always name
    if task != "generate":
        raise ValueError(f"{path} is of task={task}, which trains no score")
    shape = cfg.get("shape")
    if shape is None:  # which checkpoints did not always say: their data do
        shape = make(cfg.data).shape
    span = cfg.data.get("range")
    interval = None if span is None else (float(span[0]), float(span[1]))
    model = score_model(cfg, make(cfg.sde), list(shape), interval, cfg.get("classes"))
    fill(model, state["ema"]["model"] if ema else state["model"], path)
    model.step = state["step"]
    return model.eval()
