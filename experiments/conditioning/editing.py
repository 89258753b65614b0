"""Editing and translation: samples that begin with images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scoresde.conditioning import DDIB, ExactInversion, Inpaint, sdedit
from scoresde.conditioning.editing import level_time
from scoresde.evaluation.panels import Column, save_panels
from scoresde.evaluation.restoration import psnr
from scoresde.models import ScoreModel
from scoresde.samplers import Sampler, Samples
from scoresde.sde import SDE, Score, Until, rows
from scoresde.sde.checks import check_steps
from scoresde.sde.score import take

from ..condition import given
from ..record import Record
from .base import Bound, Conditioning
from .guidance import classes_of, in_turn
from .loading import score_of
from .masks import known_pixels
from .source import check_source, images_of

if TYPE_CHECKING:
    from ..parts import Parts

SHOWN = 6


@dataclass(frozen=True)
class Short:
    """What `sdedit` is as a sampler: a short run from guides.

    Args:
        sampler: Sampler of the run.
        guide: x_g of each sample, shape (B, *).
        noise_level, repeats: As for `conditioning.sdedit`.
    """

    sampler: Sampler
    guide: Tensor
    noise_level: float
    repeats: int

    def states(self, sde: SDE) -> int | None:
        """Number of states of a run."""
        return self.sampler.states(Until(sde, level_time(sde, self.noise_level).item()))

    def rows(self, index: Tensor) -> "Short":
        """That of some samples of the batch."""
        return Short(self.sampler, _rows(self.guide, index), self.noise_level, self.repeats)

    def __call__(
        self, sde: SDE, score: Score, shape: tuple[int, ...], device: Any = None, **options: Any
    ) -> Samples:
        """Edit the guides; arguments as for a sampler."""
        return sdedit(
            self.sampler,
            sde,
            score,
            self.guide,
            self.noise_level,
            repeats=self.repeats,
            **options,
        )


@dataclass(frozen=True)
class Bridge:
    """What `DDIB` is as a sampler: guides up by one score, and down by another.

    Args:
        sampler: Deterministic sampler.
        guide: Samples of the source, shape (B, *).
        target: Score of the target; that of the source where not given.
        target_sde: Its process, where it is another.
    """

    sampler: Sampler
    guide: Tensor
    target: Score | None = None
    target_sde: SDE | None = None

    def states(self, sde: SDE) -> int:
        """No states are kept."""
        return 0

    def rows(self, index: Tensor) -> "Bridge":
        """That of some samples of the batch."""
        target = None if self.target is None else rows(self.target, index)
        return Bridge(self.sampler, _rows(self.guide, index), target, self.target_sde)

    def __call__(
        self, sde: SDE, score: Score, shape: tuple[int, ...], progress: bool = False, **_: Any
    ) -> Samples:
        """Translate the guides."""
        found = self.between(sde, score)(self.guide, progress=progress)
        return Samples(found.x, found.nfe)

    def between(self, sde: SDE, score: Score) -> DDIB:
        """The bridge from a source."""
        target = score if self.target is None else self.target
        return DDIB(sde, score, target, self.sampler, self.target_sde)


@dataclass(frozen=True, kw_only=True)
class SDEdit(Conditioning):
    """Images, noised to a level and sampled from there.

    Args:
        noise_level: ς_0 = σ/α of the start.
        repeats: How often the whole is done ≥ 1.
        mask: What is edited, as the mask of inpainting hides it; everything where not given.
        share, mask_seed: As for inpainting.
        images, image, resize, samples: As for inpainting.
    """

    noise_level: float = 1.0
    repeats: int = 1
    mask: str | None = None
    share: float = 0.5
    mask_seed: int = 0
    images: int = 8
    image: str | None = None
    resize: bool = False
    samples: int = 4

    def __post_init__(self) -> None:
        check_source(self.images, self.samples, self.image, self.resize)
        check_steps(self.repeats, "repeats")

    def bind(self, parts: "Parts[Any]", model: ScoreModel) -> Bound:
        """Short runs from the guides; see `Conditioning.bind`."""
        guides, labels = images_of(parts, self.images, self.image, self.resize)
        index = torch.arange(len(guides)).repeat_interleave(self.samples)
        each = guides[index]
        labels = None if labels is None else labels[index]
        assert parts.sampler is not None
        sampler = Short(parts.sampler, each, self.noise_level, self.repeats)
        sampler.states(parts.sde)  # refuses a level that the process does not have
        constraint = None
        if self.mask is not None:
            known = known_pixels(str(self.mask), parts.data.shape, self.share, self.mask_seed)
            constraint = Inpaint(known.to(each.device)[None], each)
        return Bound(given(model, labels), sampler, len(each), constraint, labels, guides)

    def report(self, parts: "Parts[Any]", bound: Bound, samples: Samples, record: Record) -> None:
        """How far results are from their guides, and conditioning.png."""
        guides: Tensor = bound.measures
        low, high = parts.data.range or (-1.0, 1.0)
        change = psnr(samples.x, bound.sampler.guide, high - low).mean().item()
        entries = {"kind": "SDEdit", "noise_level": self.noise_level, "psnr_to_guide": change}
        record.add({"conditioning": entries})
        x = samples.x.reshape(len(guides), self.samples, *guides.shape[1:])
        columns = [Column("guide", guides, low, high)]
        columns += [
            Column(f"result {k + 1}", x[:, k], low, high) for k in range(min(SHOWN, self.samples))
        ]
        _picture(columns, record)


@dataclass(frozen=True, kw_only=True)
class Translation(Conditioning):
    """Images of this model's data become images of another model's data, or of another class.

    Args:
        target: Run or checkpoint of the other model.
        label: Class that images become, in the place of another model.
        images, image, resize: As for inpainting.
    """

    target: str | None = None
    label: int | None = None
    images: int = 8
    image: str | None = None
    resize: bool = False

    def __post_init__(self) -> None:
        check_source(self.images, 1, self.image, self.resize)

    def bind(self, parts: "Parts[Any]", model: ScoreModel) -> Bound:
        """Bridges from the images; see `Conditioning.bind`."""
        guides, labels = images_of(parts, self.images, self.image, self.resize)
        assert parts.sampler is not None
        source = given(model, labels)
        if (self.target is None) == (self.label is None):
            raise ValueError(
                "conditioning=ddib translates to another model, conditioning.target=RUN, or to "
                f"another class, conditioning.label=C, got target={self.target} and "
                f"label={self.label}"
            )
        if self.target is not None:
            other = score_of("conditioning.target", self.target, parts, same_process=False)
            bridge = Bridge(parts.sampler, guides, other, other.sde)
        else:
            classes = classes_of(model, "ddib to a class")
            wanted = in_turn(self.label, classes, len(guides))
            bridge = Bridge(parts.sampler, guides, given(model, wanted), parts.sde)
        return Bound(source, bridge, len(guides), labels=labels, measures=guides)

    def report(self, parts: "Parts[Any]", bound: Bound, samples: Samples, record: Record) -> None:
        """How well the way back closes, and conditioning.png."""
        guides: Tensor = bound.measures
        bridge = bound.sampler.between(parts.sde, bound.score)
        back = bridge.reversed(samples.x).x
        low, high = parts.data.range or (-1.0, 1.0)
        error = (back - guides).flatten(1).square().mean(1).sqrt()
        entries = {"kind": "DDIB", "cycle_error": error.mean().item()}
        record.add({"conditioning": entries})
        columns = [
            Column("image", guides, low, high),
            Column("translated", samples.x, low, high),
            Column("back again", back, low, high),
        ]
        _picture(columns, record)


@dataclass(frozen=True, kw_only=True)
class Inversion(Conditioning):
    """Images are carried to their latents and back, and the error of that is measured.

    Args:
        iterations: Fixed-point iterations ≥ 1 for each step of an exact inversion of a predictor
            without noise; the encoding of the run's own sampler where not given.
        images, image, resize: As for inpainting.
    """

    iterations: int | None = None
    images: int = 8
    image: str | None = None
    resize: bool = False

    def __post_init__(self) -> None:
        check_source(self.images, 1, self.image, self.resize)

    def bind(self, parts: "Parts[Any]", model: ScoreModel) -> Bound:
        """The way up and down of the images; see `Conditioning.bind`."""
        guides, labels = images_of(parts, self.images, self.image, self.resize)
        bridge = Bridge(self._sampler(parts.sampler), guides)
        return Bound(given(model, labels), bridge, len(guides), labels=labels, measures=guides)

    def report(self, parts: "Parts[Any]", bound: Bound, samples: Samples, record: Record) -> None:
        """The error there and back, and conditioning.png."""
        guides: Tensor = bound.measures
        error = (samples.x - guides).flatten(1).square().mean(1).sqrt()
        latent = bound.sampler.sampler.encode(parts.sde, bound.score, guides).x
        entries: dict[str, Any] = {"kind": "Inversion", "iterations": self.iterations}
        entries |= {"cycle_error": error.mean().item(), "cycle_error_max": error.max().item()}
        record.add({"conditioning": entries})
        low, high = parts.data.range or (-1.0, 1.0)
        width = 3 * parts.sde.prior((1, 1)).std
        difference = (samples.x - guides).abs()
        columns = [
            Column("image", guides, low, high),
            Column("latent", latent, -width, width),
            Column("back again", samples.x, low, high),
            Column("|difference|", difference, 0.0, difference.max().item(), heat=True),
        ]
        _picture(columns, record)

    def _sampler(self, sampler: Any) -> Sampler:
        if self.iterations is None:
            return sampler
        predictor = getattr(sampler, "predictor", None)
        if predictor is None:
            raise ValueError(
                "conditioning.iterations inverts the steps of a predictor, and "
                f"{type(sampler).__name__} has none; use sampler=ddim, or iterations=null"
            )
        return ExactInversion(
            predictor, sampler.steps, grid=sampler.grid, iterations=self.iterations
        )


def _picture(columns: list[Column], record: Record) -> None:
    def save() -> None:
        save_panels(columns, record.folder / "conditioning.png")

    record.attempt("conditioning.png", save)


def _rows(value: Tensor, index: Tensor) -> Tensor:
    part = take(value, index)
    assert isinstance(part, Tensor)
    return part
