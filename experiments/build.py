"""What a run is made of, built and checked before anything is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from data import Dataset
from models import ScoreModel
from samplers import Sampler
from sde import SDE
from training import DenoisingScoreMatching, Warmup


@dataclass(frozen=True)
class Parts:
    """The parts of a run, wired in Python from the leaves that the configuration names."""

    cfg: DictConfig
    device: torch.device
    sde: SDE
    data: Dataset
    model: ScoreModel
    sampler: Sampler
    loss: DenoisingScoreMatching

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain dicts, lists, strings and numbers."""
        plain = OmegaConf.to_container(self.cfg, resolve=True)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}


def build(cfg: DictConfig) -> Parts:
    """Build every part of a run, so that wrong input fails before the first step.

    Raises:
        ValueError: A part refuses its settings.
        FileNotFoundError: Data are not where the configuration says.
    """
    if cfg.dry_run:
        _shrink(cfg)
    device = _device(cfg.device)
    if isinstance(cfg.seed, bool) or not isinstance(cfg.seed, int):
        raise ValueError(f"seed must be an integer, got {cfg.seed!r}")
    torch.manual_seed(cfg.seed)
    sde = _make(cfg.sde)
    with open_dict(cfg):
        if "range" in cfg.data and cfg.data.range is None:
            cfg.data.range = list(sde.data_range)
    data = _make(cfg.data)
    net = _make(cfg.model.net, shape=data.shape)
    meaning = {key: value for key, value in cfg.model.items() if key != "net"}
    model = ScoreModel(net, sde, data_range=data.range, **meaning).to(device)
    for leaf in cfg.logger.values():
        get_method(f"{leaf._target_}.check")(**leaf)
    sampler, loss = _make(cfg.sampler), _make(cfg.loss, sde=sde)
    if cfg.checkpoint is None:
        _check_training(cfg, data)
    for name in ("samples", "batch_size", "pictures"):
        _check_count(f"evaluate.{name}", cfg.evaluate[name])
    return Parts(cfg, device, sde, data, model, sampler, loss)


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Write config.yaml, the resolved configuration of the run."""
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)


def _make(leaf: DictConfig, **wires: Any) -> Any:
    """Instantiate a leaf of the configuration, with plain lists and dicts as arguments."""
    return instantiate(leaf, _convert_="all", **wires)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device '{name}'; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name} asked for, but torch sees no GPU; use device=auto")
    return device


def _check_training(cfg: DictConfig, data: Dataset) -> None:
    for name in ("steps", "batch_size", "checkpoint_every", "log_every", "keep"):
        _check_count(f"train.{name}", cfg.train[name])
    if not cfg.train.grad_clip > 0:
        raise ValueError(
            f"train.grad_clip must be > 0, got {cfg.train.grad_clip}; use inf for none"
        )
    Warmup(cfg.train.warmup, cfg.train.decay, cfg.train.steps)
    data.indices(0, cfg.train.batch_size, cfg.seed)  # refuses a batch larger than the data


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer ≥ 1, got {value!r}")


def _shrink(cfg: DictConfig) -> None:
    """Two steps of everything, for `dry_run=true`."""
    few = {"steps": 2, "rtol": 0.1, "atol": 0.1}
    cfg.merge_with(
        {
            "train": {"steps": 2, "batch_size": 4, "checkpoint_every": 1, "log_every": 1},
            "evaluate": {
                "samples": 4,
                "pictures": 4,
                "frames": 3,
                "likelihood_samples": 2,
                "rtol": 0.1,
                "atol": 0.1,
            },
            "sampler": {name: value for name, value in few.items() if name in cfg.sampler},
        }
    )
