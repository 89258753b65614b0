"""Conditions of a run: the labels of its data, and those of the samples it generates."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from scoresde.data import Dataset, Pair
from scoresde.models import ScoreModel
from scoresde.models.names import inner
from scoresde.sde import Condition, Score
from scoresde.training import ConditionDropout, Loss

from .model import make


def classes_of(condition: DictConfig, data: Dataset, pretrained: ScoreModel | None) -> int | None:
    """How many classes a network of a run is conditioned on; None for no condition.

    Raises:
        ValueError: A loaded network has other classes than the data, or none; the data have no
            labels; or the classes to generate are not among them.
    """
    if condition.kind != "label":
        return None
    classes = data.classes
    if pretrained is not None:
        known = getattr(inner(pretrained.net), "classes", None)
        if known is None:
            raise ValueError(
                "the network of the checkpoint has no class labels; use condition=none"
            )
        if known != classes:
            raise ValueError(
                f"the network of the checkpoint has {known} classes, and the data have {classes}; "
                "use the data that it was trained on, or condition=none"
            )
    if classes is None:
        raise ValueError(
            f"condition=label needs data with labels, and data={data.name} has none; use "
            "data=digits, mixture or eightgaussians, or data=folder with data.labels=folders"
        )
    _check_draw(condition.draw, classes)
    return classes


def data_of(cfg: DictConfig) -> Dataset:
    """The data of a run, with images as conditions where `condition.pair` makes them.

    Raises:
        ValueError: The data refuse their settings, or have no such pairs.
    """
    leaf = cfg.condition.get("pair")
    if leaf is None:
        data: Dataset = make(cfg.data)
        return data
    pair: Pair = make(leaf)
    data = make(cfg.data, **({"condition": None} if "condition" in cfg.data else {}))
    return data.paired(pair)


def image_settings(condition: DictConfig, data: Dataset) -> dict[str, Any]:
    """Arguments of a network that sees the images of `condition.pair`."""
    assert data.pair is not None
    return {
        "condition_channels": data.pair.channels(data.shape),
        "condition_noise": condition.get("levels") is not None,
        "encoder_blocks": condition.get("encoder_blocks", 0),
    }


def with_dropout(loss: Loss, condition: DictConfig) -> Loss:
    """The loss of a run, in which `condition.dropout` of the conditions are left out.

    Raises:
        ValueError: The share is not in [0, 1).
    """
    share = condition.get("dropout")
    return loss if share is None else ConditionDropout(loss, share)


def dropout_of(saved: Mapping[str, Any]) -> float | None:
    """Which share of its conditions the training of a configuration left out; None without any.

    Configurations from before dropout left out none.
    """
    condition = saved.get("condition") or {}
    return None if condition.get("kind") is None else float(condition.get("dropout") or 0)


def labels_of(data: Dataset, split: str) -> Tensor | None:
    """Labels of the samples of a split, where the data are conditioned on them."""
    return getattr(data, f"{split}_labels") if data.condition else None


def given(model: Any, condition: Condition | None) -> Score:
    """The score with a condition, where there is one."""
    return model if condition is None else model.given(condition)


def labels_to_draw(condition: DictConfig, model: ScoreModel, count: int) -> Tensor | None:
    """Labels of so many samples, the classes in turn; None for a model without a condition."""
    classes = getattr(inner(model.net), "classes", None)
    if classes is None or condition.kind != "label":
        return None
    drawn = _check_draw(condition.draw, classes)
    return torch.tensor(drawn)[torch.arange(count) % len(drawn)]


def order_by_class(labels: Tensor | None, most: int) -> tuple[Tensor, int | None]:
    """Numbers of the samples of a picture, a row for each class, and how many are in a row.

    Few classes have several rows each, so that the picture is no strip.
    """
    if labels is None:
        return torch.arange(most), None
    found = labels.unique()[:most]
    each = min(most // len(found), int((labels[:, None] == found).sum(0).min()))
    columns = min(each, math.isqrt(most))
    each -= each % columns
    rows = [(labels == label).nonzero()[:each, 0] for label in found]
    return torch.cat(rows), columns


def _check_draw(drawn: Any, classes: int) -> list[int]:
    """The classes of the generated samples; ValueError if they are no list of classes."""
    if drawn is None:
        return list(range(classes))
    known = [one for one in drawn if isinstance(one, int) and not isinstance(one, bool)]
    if not known or len(known) != len(drawn) or not all(0 <= one < classes for one in known):
        raise ValueError(
            f"condition.draw must be null or a list of classes in 0 … {classes - 1}, "
            f"got {list(drawn)}"
        )
    return known
