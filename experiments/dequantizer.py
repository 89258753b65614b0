"""The flow that dequantizes: built for a training beside its score, or loaded for a likelihood."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from scoresde.data import Dataset
from scoresde.evaluation import Cells
from scoresde.models import DequantizationFlow, ScoreModel
from scoresde.sde import SDE
from scoresde.training import DequantizationLoss, checkpoint

from .model import fill
from .settings import differences


def new_dequantizer(
    cfg: DictConfig, sde: SDE, data: Dataset, score: ScoreModel
) -> tuple[DequantizationFlow, DequantizationLoss]:
    """An untrained flow for the score of `dequantizer.score`, which is loaded, and its loss.

    Raises:
        ValueError: No path, data that are not quantized, or a score for others.
        FileNotFoundError: There is no such checkpoint.
    """
    name = cfg.dequantizer.score
    if not isinstance(name, str):
        raise ValueError(
            f"task=dequantizer trains beside a score; add dequantizer.score=RUN, got {name!r}"
        )
    if data.levels is None or data.range is None:
        raise ValueError(f"data={data.name} are points, which have no cells to spread them over")
    state = _state(name, "generate", cfg, ("sde", "model", "data.range"))
    fill(score, state["ema"]["model"], name)
    score.eval().requires_grad_(False)
    with open_dict(cfg):
        cfg.dequantizer.shape, cfg.dequantizer.levels = list(data.shape), data.levels
    cells = Cells(data.levels, *data.range)
    loss = DequantizationLoss(sde, score, cells, cfg.evaluate.eps)
    return _build(_plain(cfg.dequantizer)), loss


def load_dequantizer(cfg: DictConfig, data: Dataset, device: torch.device) -> DequantizationFlow:
    """The averaged flow that `evaluate.dequantizer` names by its path.

    Nothing in the file but numbers is used.

    Raises:
        ValueError: No path, a checkpoint of something else, or of other data.
        FileNotFoundError: There is no such checkpoint.
    """
    name = cfg.evaluate.dequantizer
    if not isinstance(name, str):
        raise ValueError(
            f"evaluate.dequantization=variational needs evaluate.dequantizer=RUN, got {name!r}; "
            "train one with task=dequantizer"
        )
    state = _state(name, "dequantizer", cfg, ("sde", "data.range"))
    settings = state["config"]["dequantizer"]
    if tuple(settings["shape"]) != data.shape or settings["levels"] != data.levels:
        raise ValueError(
            f"{name} is for images {tuple(settings['shape'])} of {settings['levels']} levels, "
            f"requested {data.shape} of {data.levels}"
        )
    with torch.random.fork_rng(devices=[]):  # its first weights must not cost the network's
        flow = _build(settings)
    fill(flow, state["ema"]["model"], name)
    return flow.to(device).eval().requires_grad_(False)


def _state(name: str, task: str, cfg: DictConfig, keys: tuple[str, ...]) -> dict[str, Any]:
    """A checkpoint of a task, by the same settings under some keys."""
    _, state = checkpoint.find(Path(name))
    saved = state["config"]
    was = saved.get("task", "generate")
    if was != task:
        raise ValueError(f"{name} is a checkpoint of task={was}; give one of task={task}")
    for key in keys:
        section, _, entry = key.partition(".")
        whole: tuple[Any, Any] = saved[section], _plain(cfg[section])
        had, asked = (part.get(entry) for part in whole) if entry else whole
        if differences(had, asked):
            raise ValueError(f"{name} was trained with {key} {had}, requested {asked}")
    return state


def _build(settings: dict[str, Any]) -> DequantizationFlow:
    return DequantizationFlow(
        tuple(settings["shape"]),
        settings["levels"],
        width=settings["width"],
        depth=settings["depth"],
    )


def _plain(section: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(section, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
