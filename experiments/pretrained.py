"""Models that were not trained here: `checkpoint=` names a file or folder of another format."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from scoresde.interop import format_of, load
from scoresde.models import ScoreModel

from .settings import asked

if TYPE_CHECKING:
    from .tasks import Task

SAID = ("sde", "model")  # groups that a file of weights says itself


def load_pretrained(cfg: DictConfig, task: "Task") -> ScoreModel | None:
    """The model of `checkpoint`, where it says itself what it is.

    Returns:
        None where there is no checkpoint, or it is of a training of this toolkit, whose
        configuration the command must repeat; task=sample takes it from the checkpoint.

    Raises:
        ValueError: The format is not known, or does not go with what else is asked for.
        FileNotFoundError: There is nothing at the path.
    """
    if cfg.checkpoint is None:
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
    if run and task.repeats:
        return None
    task.check_foreign(path)
    _check(cfg, path)
    if run:
        return task.load(path, ema=cfg.checkpoint_ema)
    return load(path, cfg.checkpoint_config, cfg.checkpoint_ema)


def check_data(model: ScoreModel, shape: tuple[int, ...], name: str) -> None:
    """Raise ValueError if data have another shape than a loaded network takes."""
    wanted = shape_of(model) or shape
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
    """Names of the parts of a loaded model, which replace those of config groups."""
    base = getattr(model.sde, "base", None)
    sde = type(model.sde if base is None else base).__name__
    chain = "" if base is None else f" chain of {model.sde.steps}"
    return {"sde": f"{sde}{chain}", "model": type(model.net).__name__}


def state(model: ScoreModel) -> dict[str, Any]:
    """A loaded model in the form of a checkpoint, as far as one is needed to evaluate."""
    weights = model.state_dict()
    return {"model": weights, "ema": {"model": weights, "updates": 0}, "step": model.step or 0}


def _check(cfg: DictConfig, path: Path) -> None:
    if cfg.transfer:
        raise ValueError(f"transfer belongs to runs of this toolkit; {path} has its own process")
    for group in SAID:
        if (key := chosen(group)) is not None:
            raise ValueError(
                f"the {group} comes with {path}; leave {key} out. What the file does not say, a "
                "configuration says: checkpoint_config=FILE"
            )


def chosen(group: str) -> str | None:
    """The key by which the command line chose or changed a group, if it did."""
    for override in asked():
        key = override.lstrip("+~").split("=", 1)[0]
        if key.partition(".")[0].partition("/")[0] == group:
            return key
    return None


def shape_of(model: ScoreModel) -> tuple[int | None, ...]:
    """The shape of what a model takes: its network's, without the features that it adds."""
    shape: tuple[int | None, ...] = tuple(getattr(model.net, "shape", ()))
    if model.features is None or shape[0] is None:
        return shape
    return (shape[0] // (1 + 2 * len(model.features.exponents)), *shape[1:])
