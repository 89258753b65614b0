"""Further models that a condition needs, from runs of their own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scoresde.models import NoisyClassifier, ScoreModel

if TYPE_CHECKING:
    from ..parts import Parts


def classifier_of(key: str, parts: "Parts[Any]") -> NoisyClassifier:
    """The trained classifier of a run of task=classifier, with fixed weights.

    Args:
        key: Key of its path in the configuration.
        parts: Parts of the run, whose process and data are those of the classifier.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: No path, or a checkpoint of another task, process or kind of data.
    """
    from ..tasks import Classifier  # tasks have conditions

    found: NoisyClassifier = Classifier.auxiliary(key, parts.cfg, parts.data, parts.device)
    return found


def score_of(key: str, path: Any, parts: "Parts[Any]", *, same_process: bool) -> ScoreModel:
    """The trained score of another run, with fixed weights, on the run's device.

    Args:
        key: Key of its path.
        path: A checkpoint, or a run's folder.
        parts: Parts of the run, whose shape and range of the data are those of the score.
        same_process: Whether its process is that of the run too.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: No path, or a checkpoint of another task, process or kind of data.
    """
    from ..tasks import Generate  # tasks have conditions

    if not isinstance(path, str):
        raise ValueError(f"{key} must be the folder of a run of task=generate, got {path!r}")
    _, state = Generate.saved(Path(path), key)
    sections = ("sde", "data.range") if same_process else ("data.range",)
    Generate.require(state["config"], parts.cfg, sections, f"{key}={path}")
    shape = state["config"].get("shape")
    if shape is not None and tuple(shape) != tuple(parts.data.shape):
        raise ValueError(
            f"{key}={path} is for samples of shape {tuple(shape)}, requested "
            f"{tuple(parts.data.shape)}; give one of these data"
        )
    with torch.random.fork_rng(devices=[]):
        model: ScoreModel = Generate.load(path)
    return model.to(parts.device).requires_grad_(False)
