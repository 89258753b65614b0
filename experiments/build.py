"""What a run is made of, built and checked before anything is written."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from data import Dataset
from data.base import stream
from models import ScoreModel
from samplers import Sampler
from sde import SDE
from sde.integrate import check_resolution
from training import EMA, NoiseLevelLoss, Warmup
from training.loop import Loss

from .estimator import check_shape, load_estimator, new_estimator

Model = TypeVar("Model", bound=nn.Module)
# What a run is for, and the config groups that name it.
TASKS = {
    "generate": ("data", "sde", "sampler", "model"),
    "noise_estimator": ("data", "sde", "estimator"),
}


@dataclass(frozen=True)
class Parts(Generic[Model]):
    """The parts of a run, wired in Python from the leaves that the configuration names."""

    cfg: DictConfig
    device: torch.device
    sde: SDE
    data: Dataset
    model: Model
    ema: EMA[Model]
    optimizer: torch.optim.Optimizer
    schedule: Warmup
    sampler: Sampler
    loss: Loss

    def generator(self, purpose: str) -> torch.Generator:
        """A generator on the run's device whose numbers belong to one purpose and seed alone."""
        seed = stream(purpose, self.cfg.seed).initial_seed()
        return torch.Generator(self.device).manual_seed(seed)

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
    _check_task(cfg.task)
    _check_numbers(cfg)
    if cfg.dry_run:
        _shrink(cfg)
    device = _device(cfg.device)
    torch.manual_seed(cfg.seed)
    sde = _make(cfg.sde)
    with open_dict(cfg):
        if "range" in cfg.data and cfg.data.range is None:
            cfg.data.range = list(sde.data_range)
    estimator = load_estimator(cfg, sde, device)
    sampler = _make(cfg.sampler, **({} if estimator is None else {"estimator": estimator}))
    loss = _make(cfg.loss, sde=sde)
    sampler.check(sde, torch.get_default_dtype())
    check_resolution(cfg.evaluate.rtol, torch.get_default_dtype())
    for leaf in cfg.logger.values():
        get_method(f"{leaf._target_}.check")(**leaf)
    data = _make(cfg.data)
    if cfg.checkpoint is None:
        data.indices(0, cfg.train.batch_size, cfg.seed)  # refuses a batch larger than the data
    if estimator is not None:
        check_shape(estimator, data.shape, cfg.sampler.estimator)
    model: nn.Module
    if cfg.task == "noise_estimator":
        model, loss = new_estimator(cfg, sde, data.shape), NoiseLevelLoss(sde)
    else:
        model = _score_model(cfg, sde, data)
    model = model.to(device)
    ema = EMA(model, cfg.train.ema_decay)
    optimizer = _make(cfg.train.optimizer)(model.parameters())
    schedule = Warmup(cfg.train.warmup, cfg.train.decay, cfg.train.steps)
    return Parts(cfg, device, sde, data, model, ema, optimizer, schedule, sampler, loss)


def _score_model(cfg: DictConfig, sde: SDE, data: Dataset) -> ScoreModel:
    net = _make(cfg.model.net, shape=data.shape)
    meaning = {key: value for key, value in cfg.model.items() if key != "net"}
    return ScoreModel(net, sde, data_range=data.range, **meaning)


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Write config.yaml, the resolved configuration of the run."""
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)


def _make(leaf: DictConfig, **wires: Any) -> Any:
    """Instantiate a leaf of the configuration, with plain lists and dicts as arguments."""
    return instantiate(leaf, _convert_="all", **wires)


def _check_task(task: Any) -> None:
    if task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, 1)
        hint = f"; did you mean task={near[0]}?" if near else "."
        raise ValueError(f"unknown task '{task}'{hint} Available: {', '.join(TASKS)}")


def _device(name: Any) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device '{name}'; use auto, cpu, cuda or cuda:N")
    number = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= number:
        raise ValueError(f"device={name} asked for, but torch sees {number} GPUs; use device=auto")
    return device


def _check_numbers(cfg: DictConfig) -> None:
    """Refuse settings of the run itself that are not numbers of their kind."""
    train, evaluate = cfg.train, cfg.evaluate
    for name in ("steps", "batch_size", "checkpoint_every", "log_every", "keep"):
        _check_count(f"train.{name}", train[name], 1)
    _check_count("train.warmup", train.warmup, 0)
    _check_positive("train.grad_clip", train.grad_clip)  # inf for none
    _check_positive("train.optimizer.lr", train.optimizer.lr)
    for name, least in (("samples", 2), ("batch_size", 1), ("pictures", 1), ("frames", 2)):
        _check_count(f"evaluate.{name}", evaluate[name], least)
    if evaluate.likelihood_samples is not None:
        _check_count("evaluate.likelihood_samples", evaluate.likelihood_samples, 1)
    for name in ("rtol", "atol"):
        _check_positive(f"evaluate.{name}", evaluate[name])
    if evaluate.divergence not in (None, "exact", "hutchinson"):
        raise ValueError(
            f"unknown evaluate.divergence '{evaluate.divergence}'. Available: exact, hutchinson"
        )
    switches = {"dry_run": cfg.dry_run}
    switches |= {f"evaluate.{name}": evaluate[name] for name in ("likelihood", "quality")}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")
    for name in ("width", "depth"):
        _check_count(f"estimator.{name}", cfg.estimator[name], 1)
    _check_count("seed", cfg.seed, 0)
    if cfg.seed >= 2**32:  # what every library that draws numbers takes
        raise ValueError(f"seed must be below 2^32, got {cfg.seed}")
    for name in ("checkpoint", "resume"):
        if not isinstance(cfg[name], str | None):
            raise ValueError(f"{name} must be a path, got {cfg[name]!r}")


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer ≥ {least}, got {value!r}")


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{name} must be a number > 0, got {value!r}")


def _shrink(cfg: DictConfig) -> None:
    """Two steps of everything, for `dry_run=true`."""
    few = {"steps": 2, "rtol": 0.1, "atol": 0.1}
    loose = {"rtol": 0.1, "atol": 0.1}
    counts = {"samples": 4, "pictures": 4, "frames": 3, "likelihood_samples": 2}
    cfg.merge_with(
        {
            "train": {"steps": 2, "batch_size": 4, "checkpoint_every": 1, "log_every": 1},
            "evaluate": counts | loose,
            "sampler": {name: value for name, value in few.items() if name in cfg.sampler},
        }
    )
