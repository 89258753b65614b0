"""Restoration: images are measured, and the posterior of the images given y is sampled."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from scoresde.conditioning import Mask, Measurement, PiGDM
from scoresde.conditioning.measurements import Operator
from scoresde.data.base import stream
from scoresde.evaluation.panels import Column, save_panels
from scoresde.evaluation.restoration import consistency, psnr, spread, ssim
from scoresde.models import ScoreModel
from scoresde.samplers import Samples
from scoresde.sde.checks import check_between, check_switch

from ..condition import given, labels_to_draw
from ..record import Record
from .base import Bound, Conditioning
from .methods import way
from .source import check_images, check_source, images_of, read_image

if TYPE_CHECKING:
    from ..parts import Parts

SHOWN = 4  # samples of each image in the picture


@dataclass(frozen=True)
class Problem:
    """Images, and what was measured of them.

    Attributes:
        x0: The images, shape (N, C, H, W); None where y is all that there is.
        measurement: y, with a row for each image.
        samples: Number K of samples of each.
    """

    x0: Tensor | None
    measurement: Measurement
    samples: int

    @property
    def index(self) -> Tensor:
        """The image of each sample, int64, (N K,)."""
        return torch.arange(len(self.measurement.y)).repeat_interleave(self.samples)


@dataclass(frozen=True, kw_only=True)
class Restoration(Conditioning):
    """Samples of p(x_0 | y) for measurements y = h(x_0) + σ_y n of some images.

    Args:
        method: How the posterior is sampled; see conf/conditioning/method/.
        std: σ_y ≥ 0, in the units of the network's data range.
        images: Number of test images ≥ 1.
        image: An image file in their place.
        resize: Whether the centre square of that file may be resized.
        measured: Whether that file is y itself, rather than an image to be measured.
        samples: Samples K ≥ 1 of each image.

    Attributes:
        pixels: Whether y is itself an image.

    Raises:
        ValueError: A number out of its range.
    """

    pixels: ClassVar[bool] = False

    method: Any = field(default_factory=PiGDM)
    std: float = 0.0
    images: int = 8
    image: str | None = None
    resize: bool = False
    measured: bool = False
    samples: int = 4

    def __post_init__(self) -> None:
        check_source(self.images, self.samples, self.image, self.resize)
        check_between("std", self.std, 0)
        if check_switch(self.measured, "measured") and (self.image is None or not self.pixels):
            raise ValueError(
                "measured=true takes the file image=FILE for the measurement, where that is itself "
                f"an image, got image={self.image} for {type(self).__name__}"
            )

    @abstractmethod
    def operator(self, shape: tuple[int, ...], span: tuple[float, float]) -> Operator:
        """h for images of a shape (C, H, W) and a data range.

        Raises:
            ValueError: It does not exist for them.
        """

    def bind(self, parts: "Parts[Any]", model: ScoreModel) -> Bound:
        """The posterior of each image, K times; see `Conditioning.bind`."""
        check_images(parts)
        assert parts.sampler is not None
        operator = self.operator(parts.data.shape, parts.data.range or (-1.0, 1.0))
        problem, labels = self._problem(parts, operator)
        labels = None if labels is None else labels[problem.index]
        each = problem.measurement.rows(problem.index)
        found = way(self.method, each, parts.sde, given(model, labels), parts.sampler)
        count = len(problem.index)
        return Bound(found.score, found.sampler, count, found.constraint, labels, problem)

    def _problem(self, parts: "Parts[Any]", operator: Operator) -> tuple[Problem, Tensor | None]:
        """What is measured, and its labels where the network is told them."""
        std = float(self.std)
        if self.measured and self.image is not None:
            span = parts.data.range or (-1.0, 1.0)
            y = read_image(self.image, operator.shape_out, span, self.resize).to(parts.device)
            labels = labels_to_draw(parts.cfg.condition, parts.model, 1)
            return Problem(None, Measurement(operator, y, std), self.samples), labels
        x0, labels = images_of(parts, self.images, self.image, self.resize)
        noise = stream("measurement", parts.seed)
        return Problem(x0, Measurement.of(operator, x0, std, noise), self.samples), labels

    def report(self, parts: "Parts[Any]", bound: Bound, samples: Samples, record: Record) -> None:
        """Errors, fit and spread of the samples, and conditioning.png."""
        problem: Problem = bound.measures
        x, truth = samples.x.detach(), problem.x0
        residual = problem.measurement.rows(problem.index).residual(x)
        align = getattr(problem.measurement.operator, "align", None)
        if align is not None and truth is not None:
            x = align(x, truth[problem.index])
        x = x.reshape(-1, problem.samples, *parts.data.shape)
        low, high = parts.data.range or (-1.0, 1.0)
        entries = {"kind": type(self).__name__, "method": _name(self.method), "std": self.std}
        entries |= {"images": len(x), "samples": problem.samples}
        entries |= {"consistency": consistency(residual, self.std)}
        if truth is not None:
            entries |= measures(x, truth, high - low)
        entries |= {"diverged": _diverged(x, low, high)}
        record.add({"conditioning": entries})
        path = record.folder / "conditioning.png"
        record.attempt("conditioning.png", lambda: _draw(self, problem, x, (low, high), path))


def measures(x: Tensor, truth: Tensor, width: float) -> dict[str, Any]:
    """PSNR and SSIM of the mean and of samples (N, K, C, H, W), and their spread where K > 1."""
    mean, repeated = x.mean(1), truth.repeat_interleave(x.shape[1], 0)
    found: dict[str, Any] = {}
    for name, images, reference in (("mean", mean, truth), ("sample", x.flatten(0, 1), repeated)):
        found[f"psnr_{name}"] = psnr(images, reference, width).mean().item()
        found[f"ssim_{name}"] = ssim(images, reference, width).mean().item()
    if x.shape[1] > 1:
        found["spread"] = spread(x, truth).summary()
    return found


def _diverged(x: Tensor, low: float, high: float) -> int:
    """How many samples (N, K, *) are beyond the data range by more than its width; says so."""
    beyond = (x - (low + high) / 2).abs().flatten(2).amax(2) > 1.5 * (high - low)
    count = int(beyond.sum())
    if count:
        print(
            f"warning: {count} of {beyond.numel()} samples diverged, beyond the data range by more "
            "than its width; use more sampler.steps, sampler/grid=half_log_snr, or another "
            "conditioning/method",
            flush=True,
        )
    return count


def _draw(
    restoration: Restoration, problem: Problem, x: Tensor, span: tuple[float, float], path: Any
) -> None:
    """A row for each image: itself, what was measured, samples, their mean and deviation."""
    low, high = span
    operator, y = problem.measurement.operator, problem.measurement.y
    hidden = (
        ~operator.known.reshape(-1, *operator.shape[1:])[0] if isinstance(operator, Mask) else None
    )
    columns = [] if problem.x0 is None else [Column("image", problem.x0, low, high)]
    columns += [
        Column("measurement", _as_image(restoration, operator, y), low, high, hidden),
    ]
    shown = min(x.shape[1], SHOWN)
    columns += [Column(f"sample {k + 1}", x[:, k], low, high) for k in range(shown)]
    if x.shape[1] > 1:
        # A sample that diverged must not leave the others dark.
        deviation = x.std(1).clamp(max=high - low)
        columns.append(Column(f"mean of {x.shape[1]}", x.mean(1), low, high))
        columns.append(
            Column("std. dev.", deviation, 0.0, max(deviation.max().item(), 1e-12), heat=True)
        )
    save_panels(columns, path)


def _as_image(restoration: Restoration, operator: Any, y: Tensor) -> Tensor:
    """A measurement as images (N, C, H, W): itself, enlarged where it is smaller, or H⁺ y."""
    if restoration.pixels:
        factor = operator.shape[1] // y.shape[2]
        return y.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    pinv = getattr(operator, "pinv", None)
    if pinv is not None:
        return pinv(y)
    scaled = (y - y.amin((2, 3), True)) / (y.amax((2, 3), True) - y.amin((2, 3), True))
    return 2 * scaled - 1


def _name(method: Any) -> str:
    """The class of a method."""
    return str(getattr(method, "func", type(method)).__name__)
