"""Models that were not trained here: `checkpoint=` names a file or folder of another format."""

from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from scoresde.interop import format_of, load
from scoresde.models import ScoreModel
from scoresde.sde import construct, describe

from .model import load_trained

# What a file of weights says itself.
SAID = ("sde", "model")
TASKS = ("generate", "sample", "likelihood")


def load_pretrained(cfg: DictConfig) -> ScoreModel | None:
    """The model of `checkpoint`, with the configuration changed to what it says of itself.

    Returns:
        None where there is no checkpoint, or it is of a training of this toolkit, whose
        configuration the command must repeat; but task=sample takes it from the checkpoint.

    Raises:
        ValueError: The format is not known, or does not go with what else is asked for.
        FileNotFoundError: There is nothing at the path.
    """
    if cfg.checkpoint is None:
        if cfg.task == "sample":
            raise ValueError("task=sample draws from a trained model; add checkpoint=RUN_OR_FILE")
        if cfg.checkpoint_config is not None:
            raise ValueError("checkpoint_config belongs to checkpoint=FILE, which is not given")
        if not cfg.checkpoint_ema:
            raise ValueError("checkpoint_ema=false belongs to checkpoint=PATH, which is not given")
        return None
    path = Path(cfg.checkpoint)
    kind = format_of(path)
    run = kind == "training" or (kind is None and path.is_dir())  # which says what it lacks
    if run and cfg.checkpoint_config is not None:
        raise ValueError(f"{path} is a run of this toolkit and has its own configuration")
    if run and cfg.task != "sample":
        return None
    _check(cfg, path)
    ema = cfg.checkpoint_ema
    model = load_trained(path, ema) if run else load(path, cfg.checkpoint_config, ema)
    description = model.description()
    with open_dict(cfg):
        cfg.sde = description.pop("sde")
        span = description.pop("data_range")
        cfg.model = description
        if cfg.task == "sample":
            levels = {"_target_": "scoresde.data.Blank", "shape": _shape(cfg, model), "levels": 256}
            cfg.data = levels | {"range": span or list(model.sde.data_range)}
            if description["net"].get("classes") and not _chosen("condition"):
                cfg.condition = {"kind": "label", "draw": None}  # as it was trained
        elif "range" in cfg.data and span is not None:
            if cfg.data.range is not None and list(cfg.data.range) != span:
                raise ValueError(f"{path} is for data in {span}, not {list(cfg.data.range)}")
            cfg.data.range = span
    return model


def check_data(model: ScoreModel, shape: tuple[int, ...], name: str) -> None:
    """Refuse data that a loaded network does not take.

    Raises:
        ValueError: They have another shape.
    """
    wanted = _samples(model) or shape
    channels = len(wanted) == len(shape) and all(
        want is None or want == got for want, got in zip(wanted, shape, strict=True)
    )
    if not channels:
        takes = ", ".join("any" if want is None else str(want) for want in wanted)
        raise ValueError(
            f"the checkpoint takes samples ({takes}), data={name} has {shape}; choose data=…, or "
            "task=sample, which needs none"
        )


def names(model: ScoreModel) -> dict[str, str]:
    """What the parts of a loaded model are called, in the place of config groups."""
    base = getattr(model.sde, "base", None)
    sde = type(model.sde if base is None else base).__name__
    chain = "" if base is None else f" chain of {model.sde.steps}"
    return {"sde": f"{sde}{chain}", "model": type(model.net).__name__}


def state(model: ScoreModel) -> dict[str, Any]:
    """A loaded model in the form of a checkpoint, as far as one is needed to evaluate."""
    weights = model.state_dict()
    return {"model": weights, "ema": {"model": weights, "updates": 0}, "step": model.step or 0}


def _check(cfg: DictConfig, path: Path) -> None:
    if cfg.task not in TASKS:
        raise ValueError(
            f"task={cfg.task} takes runs of this toolkit; {path} is for {', '.join(TASKS)}"
        )
    if cfg.transfer:
        raise ValueError(f"transfer belongs to runs of this toolkit; {path} has its own process")
    for group in SAID:
        if (key := _chosen(group)) is not None:
            raise ValueError(
                f"the {group} comes with {path}; leave {key} out. What the file does not say, a "
                "configuration says: checkpoint_config=FILE"
            )


def _chosen(group: str) -> str | None:
    """The key by which the command line chose or changed a group, if it did."""
    given = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    for override in given:
        key = override.lstrip("+~").split("=", 1)[0]
        if key.partition(".")[0].partition("/")[0] == group:
            return key
    return None


def _shape(cfg: DictConfig, model: ScoreModel) -> list[int]:
    """(C, H, W) of what is drawn."""
    shape = list(_samples(model))
    if len(shape) != 3:
        raise ValueError("task=sample draws images; of points use task=generate and data=…")
    size = cfg.image_size
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"image_size must be an integer ≥ 1, got {size!r}")
    for axis in (1, 2):
        if shape[axis] is None and size is None:
            raise ValueError(
                "the checkpoint does not say how large its images are; add image_size=32, say"
            )
        if shape[axis] is not None and size not in (None, shape[axis]):
            raise ValueError(f"the checkpoint is for images of {shape[1:]}, not {size}")
        shape[axis] = shape[axis] or size
    sized = [int(side) for side in shape if side is not None]
    if sized != list(_samples(model)):  # a size that was open: would the network be built for it?
        with torch.device("meta"):
            construct(describe(model.net) | {"shape": sized})  # type: ignore[arg-type]
    return sized


def _samples(model: ScoreModel) -> tuple[int | None, ...]:
    """The shape of what a model takes: its network's, without the features that it adds."""
    shape: tuple[int | None, ...] = tuple(getattr(model.net, "shape", ()))
    if model.features is None or shape[0] is None:
        return shape
    return (shape[0] // (1 + 2 * len(model.features.exponents)), *shape[1:])
