"""The estimator of the noise level: built for a training, or loaded for a sampler."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from scoresde.models import NoiseLevelEstimator
from scoresde.sde import SDE
from scoresde.training import checkpoint

from .model import fill
from .settings import differences


def new_estimator(cfg: DictConfig, sde: SDE, shape: tuple[int, ...]) -> NoiseLevelEstimator:
    """An untrained estimator, whose shape the configuration then records.

    Raises:
        ValueError: The estimator refuses its settings.
    """
    with open_dict(cfg):
        cfg.estimator.shape = list(shape)
    return _build(_plain(cfg.estimator), sde, _plain(cfg.data).get("range"))


def load_estimator(cfg: DictConfig, sde: SDE, device: torch.device) -> NoiseLevelEstimator | None:
    """The averaged estimator that the sampler names by its path, or None where it needs none.

    Nothing in the file but numbers is used: no `_target_` of its configuration is called.

    Raises:
        ValueError: No path, a checkpoint of something else, of another process or data range.
        FileNotFoundError: There is no such checkpoint.
    """
    if "estimator" not in cfg.sampler or not (cfg.draw or cfg.task in ("generate", "sample")):
        return None
    name = cfg.sampler.estimator
    if not isinstance(name, str):
        raise ValueError(
            f"this sampler needs sampler.estimator=PATH, the folder of a run of "
            f"task=noise_estimator, got {name!r}; train one with task=noise_estimator"
        )
    _, state = checkpoint.find(Path(name))
    saved = state["config"]
    task = saved.get("task", "generate")
    if task != "noise_estimator":
        raise ValueError(
            f"sampler.estimator={name} is a checkpoint of task={task}; "
            "give one of task=noise_estimator"
        )
    for key, asked in (("sde", _plain(cfg.sde)), ("data.range", _plain(cfg.data).get("range"))):
        section, _, entry = key.partition(".")
        was = saved[section].get(entry) if entry else saved[section]
        if differences(was, asked):
            raise ValueError(
                f"sampler.estimator={name} was trained with {key} {was}, requested {asked}; "
                "train one for these settings with task=noise_estimator"
            )
    with torch.random.fork_rng(devices=[]):  # its first weights must not cost the network's
        estimator = _build(saved["estimator"], sde, saved["data"].get("range"))
    fill(estimator, state["ema"]["model"], name)
    return estimator.to(device).eval().requires_grad_(False)


def check_shape(estimator: NoiseLevelEstimator, shape: tuple[int, ...], name: str) -> None:
    """Raise ValueError if an estimator is for states of another shape."""
    if estimator.shape != tuple(shape):
        raise ValueError(
            f"sampler.estimator={name} was trained on data of shape {estimator.shape}, "
            f"requested {tuple(shape)}; train one for these data with task=noise_estimator"
        )


def _build(settings: dict[str, Any], sde: SDE, interval: list[float] | None) -> NoiseLevelEstimator:
    data_range = None if interval is None else (interval[0], interval[1])
    numbers = {key: value for key, value in settings.items() if key != "shape"}
    return NoiseLevelEstimator(sde, tuple(settings["shape"]), data_range, **numbers)


def _plain(section: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(section, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
