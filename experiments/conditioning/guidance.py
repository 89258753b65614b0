"""Guidance: samples of a class, or better samples than the model alone gives."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scoresde import conditioning as methods
from scoresde.evaluation import plots
from scoresde.evaluation.panels import Column, save_panels
from scoresde.models import ScoreModel
from scoresde.models.names import inner
from scoresde.samplers import Samples
from scoresde.sde import Score
from scoresde.sde.checks import check_choice

from ..condition import given, labels_to_draw, order_by_class
from ..record import Record
from .base import Bound, Conditioning
from .loading import classifier_of, score_of

if TYPE_CHECKING:
    from ..parts import Parts

PICTURES = 100  # in conditioning.png, at most
DEFAULT_SCALE = 2.0  # where neither a scale nor a strength is given


@dataclass(frozen=True, kw_only=True)
class Guidance(Conditioning):
    """Samples by a guided score.

    Args:
        label: Class of the samples, or several in turn; all of them in turn where not given.
        scale: w ≥ 0, or γ ≥ 0 of a classifier.
        interval: Levels (low, high] of σ/α between which there is guidance; everywhere where not
            given.
        threshold: What keeps predicted images in their range: `none`, `static` or `dynamic`.
        quantile: p of the dynamic threshold.

    Raises:
        ValueError: An unknown threshold, or an interval that is no pair.
    """

    label: int | Sequence[int] | None = None
    scale: float | None = None
    interval: Sequence[float] | None = None
    threshold: str = "none"
    quantile: float = 0.995

    def __post_init__(self) -> None:
        check_choice("threshold", self.threshold, "none", "static", "dynamic")
        if self.interval is not None and len(self.interval) != 2:
            raise ValueError(
                f"interval must be [low, high], levels of sigma/alpha, got {list(self.interval)}"
            )

    @abstractmethod
    def guide(
        self, parts: "Parts[Any]", model: ScoreModel, count: int
    ) -> tuple[Any, Tensor | None]:
        """The guided score of so many samples, and their labels, int64, where they have some."""

    def sampler(self, parts: "Parts[Any]") -> Any:
        """The sampler of the run, or what the guidance needs in its place."""
        return parts.sampler

    def bind(self, parts: "Parts[Any]", model: ScoreModel) -> Bound:
        """The guided score within its interval and threshold; see `Conditioning.bind`."""
        count = parts.sampling.count
        score, labels = self.guide(parts, model, count)
        if self.interval is not None:
            low, high = self.interval
            score = methods.Interval(score, low, high)
        return Bound(self._within(parts, score), self.sampler(parts), count, labels=labels)

    def report(self, parts: "Parts[Any]", bound: Bound, samples: Samples, record: Record) -> None:
        """The settings, and conditioning.png with a row for each class."""
        entries = {"kind": type(self).__name__, "scale": self.scale}
        if bound.labels is not None:
            entries["labels"] = bound.labels.unique().tolist()
        record.add({"conditioning": entries})
        path = record.folder / "conditioning.png"
        record.attempt("conditioning.png", lambda: _draw(parts, bound.labels, samples.x, path))

    def _within(self, parts: "Parts[Any]", score: Score) -> Score:
        """The score with a threshold, where there is one."""
        if self.threshold == "none":
            return score
        span = parts.data.range
        if span is None:
            raise ValueError(
                f"threshold={self.threshold} keeps pixels in their range, and data="
                f"{parts.data.name} are points, which have none; use threshold=none"
            )
        if self.threshold == "static":
            return methods.StaticThreshold(score, span)
        return methods.DynamicThreshold(score, self.quantile, span)


@dataclass(frozen=True, kw_only=True)
class ClassifierFree(Guidance):
    """Classifier-free guidance of a class-conditional network; see `conditioning.ClassifierFree`.

    Args:
        scale: w ≥ 0, 1 for the conditional model; 2 where neither it nor the strength is given.
        strength: w − 1, in the place of the scale.
        negative: Class that samples are guided away from, in the place of no class.
        rescale, rescale_of: As for `conditioning.ClassifierFree`.
        particles: Particles K ≥ 2 of each sample, by whose weights samples have the distribution
            p(x | y)^w p(x)^(1 − w), see `conditioning.FeynmanKac`; none where not given.
    """

    strength: float | None = None
    negative: int | None = None
    rescale: float = 0.0
    rescale_of: str = "noise"
    particles: int | None = None

    def guide(
        self, parts: "Parts[Any]", model: ScoreModel, count: int
    ) -> tuple[Any, Tensor | None]:
        """See `Guidance.guide`."""
        classes = classes_of(model, "classifier_free")
        labels, negative = in_turn(self.label, classes, count), None
        if self.negative is not None:
            negative = in_turn(self.negative, classes, 1, "negative")
        neither = self.scale is None and self.strength is None
        score = methods.ClassifierFree(
            model,
            labels,
            DEFAULT_SCALE if neither else self.scale,
            strength=self.strength,
            negative=negative,
            rescale=self.rescale,
            rescale_of=self.rescale_of,
        )
        return score, labels

    def sampler(self, parts: "Parts[Any]") -> Any:
        """Weighted particles on the steps and the grid of the run's sampler, or that itself."""
        if self.particles is None:
            return parts.sampler
        own = dict[str, Any]()
        for name in ("steps", "grid"):
            if getattr(parts.sampler, name, None) is not None:
                own[name] = getattr(parts.sampler, name)
        return methods.FeynmanKac(self.particles, **own)


@dataclass(frozen=True, kw_only=True)
class Classifier(Guidance):
    """Guidance by a classifier of noisy states; see `conditioning.ClassifierGuidance`.

    Args:
        classifier: Run or checkpoint of task=classifier.
        scale: γ ≥ 0. A network with class labels is told the label too, which then counts 1 + γ
            times.
    """

    classifier: str | None = None
    scale: float | None = 1.0

    def guide(
        self, parts: "Parts[Any]", model: ScoreModel, count: int
    ) -> tuple[Any, Tensor | None]:
        """See `Guidance.guide`."""
        classifier = classifier_of("conditioning.classifier", parts)
        labels = in_turn(self.label, classifier.classes, count)
        told = labels_to_draw(parts.cfg.condition, model, 1) is not None
        score = given(model, labels if told else None)
        guided = methods.ClassifierGuidance(
            score, classifier, labels.to(parts.device), 0.0 if self.scale is None else self.scale
        )
        return guided, labels


@dataclass(frozen=True, kw_only=True)
class Autoguidance(Guidance):
    """Guidance by a worse version of the network; see `conditioning.Autoguidance`.

    Args:
        bad: Run or checkpoint of that version, of task=generate.
    """

    bad: str | None = None
    scale: float | None = 2.0

    def guide(
        self, parts: "Parts[Any]", model: ScoreModel, count: int
    ) -> tuple[Any, Tensor | None]:
        """See `Guidance.guide`."""
        labels = labels_to_draw(parts.cfg.condition, model, count)
        if self.label is not None:
            labels = in_turn(self.label, classes_of(model, "autoguidance with a label"), count)
        bad = score_of("conditioning.bad", self.bad, parts, same_process=True)
        scale = 1.0 if self.scale is None else self.scale
        return methods.Autoguidance(given(model, labels), given(bad, labels), scale), labels


def classes_of(model: ScoreModel, who: str) -> int:
    """Number of classes of a network.

    Raises:
        ValueError: It has none.
    """
    classes = getattr(inner(model.net), "classes", None)
    if classes is None:
        raise ValueError(
            f"conditioning={who} needs a network with class labels, and this one has none; train "
            "one with condition=label"
        )
    return int(classes)


def in_turn(
    label: int | Sequence[int] | None, classes: int, count: int, name: str = "label"
) -> Tensor:
    """Labels of so many samples, int64: one class, several in turn, or all of them.

    Raises:
        ValueError: A label is not one of the classes.
    """
    wanted = range(classes) if label is None else [label] if isinstance(label, int) else label
    listed = list(wanted)
    known = [one for one in listed if isinstance(one, int) and not isinstance(one, bool)]
    if not known or len(known) < len(listed) or not all(0 <= one < classes for one in known):
        raise ValueError(
            f"conditioning.{name} must be a class in 0 … {classes - 1}, or a list of them, "
            f"got {label}"
        )
    return torch.tensor(known)[torch.arange(count) % len(known)]


def _draw(parts: "Parts[Any]", labels: Tensor | None, x: Tensor, path: Path) -> None:
    """Images in a row for each class, or points."""
    if parts.data.range is None:
        plots.save_points(x.cpu(), path, reference=parts.data.test[:])
        return
    order, columns = order_by_class(labels, min(PICTURES, len(x)))
    each = round(len(order) ** 0.5) if columns is None else columns
    order = order[: len(order) - len(order) % each]
    rows = x[order.to(x.device)].reshape(-1, each, *x.shape[1:])
    names = None if labels is None else [f"class {c}" for c in labels[order[::each]].tolist()]
    low, high = parts.data.range
    save_panels([Column("", rows[:, j], low, high) for j in range(each)], path, names)
