"""What all samplers share: how they are called, what they return, how they draw and report."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from sde import SDE, Score
from sde.base import check_floating, standard_normal, widened
from sde.cautions import caution_training, silent
from sde.precision import check_range, computing_dtype

from .carrying import asked_in, check_graph, obeyed_in, told_in
from .solver import Noise

Constraint = Callable[[Tensor, Tensor], Tensor]
"""constraint(x, t) -> x, applied after every update: how inpainting and its kin act."""

Callback = Callable[[int, Tensor, Tensor], None]
"""callback(step, t, x), called after every step of a grid."""


@dataclass(frozen=True)
class Samples:
    """What a sampler returns.

    Attributes:
        x: Samples, shape (B, *).
        nfe: Score evaluations for each sample, averaged over the batch.
        trajectory: Kept states from x_T to x, shape (K, B, *), or None.
    """

    x: Tensor
    nfe: float
    trajectory: Tensor | None = None


@dataclass
class Run:
    """One call of a sampler: its noise, its constraint, and those who watch it."""

    generator: torch.Generator | None = None
    constraint: Constraint | None = None
    callback: Callback | None = None
    progress: bool = False
    keep: int = 0
    source: Noise | None = None
    temperature: float = 1.0
    encode: bool = False
    drawn: bool = False  # whether the first state was drawn from the prior
    differentiable: bool = False
    dtype: torch.dtype | None = None  # in which the score computes, where it is known
    frames: list[Tensor] = field(default_factory=list)
    nfe: float = 0.0
    _bar: tqdm | None = None
    _kept: set[int] = field(default_factory=set)

    def noise(self, x: Tensor) -> Tensor:
        """A normal draw of x's shape, whose standard deviation is the temperature."""
        if self.source is not None:
            z = self.source(x).to(x.dtype, copy=True)  # the caller may keep his
        else:
            z = standard_normal(x.shape, self.generator, x.dtype, x.device)
        return z if self.temperature == 1 else z * self.temperature

    @property
    def watched(self) -> bool:
        """Whether anyone sees the states between the first and the last, or changes them."""
        return bool(self.keep) or self.callback is not None or self.constraint is not None

    def begin(self, steps: int, x: Tensor) -> None:
        """Announce a loop of `steps` steps from state x."""
        # disable=None: no bar where nobody is looking at a terminal.
        self._bar = tqdm(total=steps, disable=None, leave=False) if self.progress else None
        if self.keep:
            self._kept = set(torch.linspace(0, steps, self.keep).round().int().tolist())
            self.frames.append(x.clone())

    def visit(self, step: int, t: Tensor, x: Tensor) -> None:
        """Report that step number `step` ≥ 1 has led to state x at time t."""
        if self._bar is not None:
            self._bar.update()
        if step in self._kept:
            self.frames.append(x.clone())
        if self.callback is not None:
            self.callback(step, t, x)

    def advance(self, share: float) -> None:
        """Report that a share in [0, 1] of an adaptive solution is done."""
        if self._bar is not None:
            self._bar.update(int(share * (self._bar.total or 0)) - self._bar.n)

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def constrain(self, x: Tensor, t: Tensor) -> Tensor:
        """Apply the constraint, if there is one."""
        return x if self.constraint is None else self.constraint(x, t)


class Sampler(ABC):
    """An algorithm that turns the prior into samples, given a process and a score."""

    @abstractmethod
    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if this sampler cannot run on a process with states of a type."""

    @abstractmethod
    def run(self, sde: SDE, score: Score, x: Tensor, run: Run) -> Tensor:
        """Carry x from time T to the end; count evaluations and report steps to `run`."""

    def calibrate(  # noqa: B027 — most samplers have nothing to measure
        self, sde: SDE, score: Score, x0: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Measure on data what the sampler needs to know beside the process, if anything.

        Args:
            sde: Process.
            score: s(x, t).
            x0: Data, shape (B, *).
            generator: Source of noise.
        """

    def __call__(
        self,
        sde: SDE,
        score: Score,
        shape: tuple[int, ...],
        *,
        x_init: Tensor | None = None,
        generator: torch.Generator | None = None,
        constraint: Constraint | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        trajectory: int = 0,
        noise: Noise | None = None,
        temperature: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        differentiable: bool = False,
    ) -> Samples:
        """Draw samples.

        Args:
            sde: Process whose reverse is followed.
            score: s(x, t) ≈ ∇ log p_t(x).
            shape: Shape (B, *) of the samples, B ≥ 1.
            x_init: State at time T in place of a draw from the prior, shape (B, *).
            generator: Source of all noise, for repeatable runs; torch's global one by default.
            constraint: constraint(x, t) → x, applied after every update.
            progress: Show a bar on a terminal.
            callback: callback(step, t, x), called after every step; by solvers with adaptive
                steps at each kept state.
            trajectory: How many states to keep, evenly spaced from x_T to the end, at least 2; 0
                for none.
            noise: noise(x) → z, standard normal and of x's shape, in place of the generator's
                draws after the first state, so that runs can share their noise.
            temperature: Factor ≥ 0 of the standard deviation of all noise, that of the prior
                included; below 1 for likelier, less diverse samples.
            device: Where the state lives, if not where the generator does.
            dtype: Type of the state, if not torch's default. Half precision is what the score sees;
                between evaluations the state is carried in float32.
            differentiable: Keep the graph, so that samples can be differentiated in x_init and in
                what the score depends on, at steps that are taken as they are: for small problems,
                as every step stays in memory. Without it x_init is taken as numbers alone.

        Raises:
            ValueError: x_init is not of the shape asked for, or contains NaN or Inf; an empty
                shape; a trajectory of one state; a temperature below 0; a type that cannot hold the
                states of the process; what the sampler cannot do on this process.
            TypeError: x_init is not floating point.
        """
        if len(shape) < 2 or min(shape) < 1:
            raise ValueError(
                f"shape must be (B, *) with B ≥ 1 and a coordinate at least, got {tuple(shape)}"
            )
        if trajectory < 0 or trajectory == 1:
            raise ValueError(f"trajectory must be 0 or an integer ≥ 2, got {trajectory}")
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be finite and ≥ 0, got {temperature}")
        if x_init is None:
            check_range(sde, dtype or torch.get_default_dtype())
            x = sde.prior(tuple(shape)).sample(generator, dtype=dtype, device=device)
            x = x if temperature == 1 else x * temperature
        else:
            check_floating("x_init", x_init)
            check_range(sde, x_init.dtype)
            x = _check_state("x_init", x_init, tuple(shape))
        return self._follow(
            sde,
            score,
            x,
            Run(
                generator,
                constraint,
                callback,
                progress,
                trajectory,
                noise,
                temperature,
                drawn=x_init is None,
                differentiable=differentiable,
            ),
        )

    def encode(
        self,
        sde: SDE,
        score: Score,
        x0: Tensor,
        *,
        progress: bool = False,
        callback: Callback | None = None,
        trajectory: int = 0,
        differentiable: bool = False,
    ) -> Samples:
        """Carry data to latents at T, by the deterministic path on which sampling returns.

        The data are taken to be states at the last time of the sampler's grid that carries noise.
        With `DDIM()` this is DDIM inversion.

        Args:
            sde: Process.
            score: s(x, t).
            x0: Data, shape (B, *), floating point.
            progress: Show a bar on a terminal.
            callback: callback(step, t, x), called after every step.
            trajectory: How many states to keep, evenly spaced from the data to x_T.
            differentiable: Keep the graph, as in sampling.

        Returns:
            Latents, to be given back as `x_init`.

        Raises:
            ValueError: The sampler draws noise, so that no latent belongs to a datum; x0's type
                cannot hold the states of the process.

        Reference: Song, Meng & Ermon 2021, arXiv:2010.02502 (section 4.3); Song et al. 2021,
        arXiv:2011.13456 (appendix D.3).
        """
        x = _check_state("x0", x0, tuple(x0.shape))
        if x.ndim < 2 or x.numel() == 0:
            raise ValueError(f"x0 must be (B, *) with B ≥ 1, got {tuple(x.shape)}")
        check_range(sde, x.dtype)
        run = Run(None, None, callback, progress, trajectory, encode=True)
        run.differentiable = differentiable
        return self._follow(sde, score, x, run)

    def _follow(self, sde: SDE, score: Score, x: Tensor, run: Run) -> Samples:
        """Run from x, counting the evaluations."""
        size, dtype = len(x), x.dtype
        caution_training(score)
        check_graph("x0" if run.encode else "x_init", x, run.differentiable)
        run.dtype, asked = computing_dtype(score, x), asked_in(score, dtype)
        if widened(x) is not x:
            run.constraint = obeyed_in(run.constraint, dtype)
            run.callback = told_in(run.callback, dtype)

        def counted(x: Tensor, t: Tensor) -> Tensor:
            run.nfe += len(x) / size
            return asked(x, t)

        try:
            with torch.set_grad_enabled(run.differentiable):
                x = self.run(sde, counted, widened(x), run)
        finally:
            run.end()
        if run.frames:
            run.frames[-1] = x  # the last frame is what is returned, without the last noise
        frames = torch.stack(run.frames).to(dtype) if run.frames else None
        return Samples(x.to(dtype), run.nfe, frames)


def draw(
    sampler: Sampler,
    sde: SDE,
    score: Score,
    shape: tuple[int, ...],
    batch_size: int,
    *,
    generator: torch.Generator,
    progress: bool = False,
    trajectory: int = 0,
) -> Samples:
    """Draw many samples in batches; the trajectory is that of the first batch.

    Args:
        sampler: Sampler.
        sde: Process.
        score: s(x, t).
        shape: Shape (N, *) of all samples.
        batch_size: Most samples at once.
        generator: Source of all noise.
        progress: Show a bar on a terminal for each batch.
        trajectory: How many states of the first batch to keep.
    """
    parts: list[Samples] = []
    for start in range(0, shape[0], batch_size):
        size = min(batch_size, shape[0] - start)
        with silent() if parts else nullcontext():
            parts.append(
                sampler(
                    sde,
                    score,
                    (size, *shape[1:]),
                    generator=generator,
                    progress=progress,
                    trajectory=0 if parts else trajectory,
                )
            )
    nfe = sum(part.nfe * len(part.x) for part in parts) / shape[0]
    return Samples(torch.cat([part.x for part in parts]), nfe, parts[0].trajectory)


def _check_state(name: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    check_floating(name, x)
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must have the shape asked for, {shape}, got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(f"{name} contains NaN/Inf")
    return x
