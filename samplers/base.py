"""The interface of all samplers: how they are called and what they return."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.sde import SDE, Evaluations, Score, rows
from scoresde.sde.broadcast import widened
from scoresde.sde.cautions import caution_training, check_graph, silent
from scoresde.sde.checks import check_floating, check_steps
from scoresde.sde.precision import check_range, computing_dtype
from scoresde.sde.prior import Randomness
from scoresde.sde.stopping import first_not_finite

from .cast import CastScore
from .context import Callback, Constraint, Noise, SamplingContext


@dataclass(frozen=True)
class Samples:
    """What a sampler returns.

    Attributes:
        x: Samples, shape (B, *).
        nfe: Network evaluations for each sample, averaged over the batch.
        trajectory: Kept states from x_T to x, shape (K, B, *), or None.
        products: Vector–Jacobian products of the network for each sample, averaged over the batch.
    """

    x: Tensor
    nfe: float
    trajectory: Tensor | None = None
    products: float = 0.0


class Sampler(ABC):
    """An algorithm that turns the prior into samples, given a process and a score."""

    @abstractmethod
    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if this sampler cannot run on a process with states of a type."""

    @abstractmethod
    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x from time T to the end; count evaluations and report steps to `run`."""

    def states(self, sde: SDE) -> int | None:
        """Number of states of a run; None where a trajectory may have any number."""
        return None

    def __call__(
        self,
        sde: SDE,
        score: Score,
        shape: tuple[int, ...],
        *,
        x_init: Tensor | None = None,
        generator: Randomness = None,
        seeds: Sequence[int] | None = None,
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
        """Generate samples.

        Args:
            sde: Process whose reverse is followed.
            score: s(x, t) ≈ ∇ log p_t(x), for conditions `model.given(condition)`.
            shape: Shape (B, *) of the samples, B ≥ 1.
            x_init: State at time T, shape (B, *); a sample of the prior where not given.
            generator: Source of all noise, torch's global one by default; or B of them, one for
                each sample.
            seeds: Seeds of B generators on the CPU: each sample depends on its own seed, and not on
                the number or the order of the samples next to it.
            constraint: constraint(x, t, noise) → x, applied after every update, by samplers with
                fixed steps; noise(x) is the run's own noise of x's shape (B, *), for each sample
                from its own generator or seed.
            progress: Show a bar on a terminal.
            callback: callback(step, t, x), called after every step; by solvers with adaptive
                steps at each kept state.
            trajectory: How many states to keep, evenly spaced from x_T to the end, at least 2 and,
                with fixed steps, at most one more than there are steps; 0 for none.
            noise: noise(x) → z, standard normal and of x's shape, for all noise after the first
                state, so that runs can share it; the generator's where not given.
            temperature: Factor ≥ 0 of the standard deviation of all noise, that of the prior
                included; below 1 for likelier, less diverse samples.
            device: Device of the state; the generator's where not given.
            dtype: Type of the state, torch's default where not given. In half precision the score
                receives that type, and the state is carried in float32 between evaluations.
            differentiable: Keep the graph of every step in memory, so that samples can be
                differentiated in x_init and in what the score depends on, at fixed step sizes.

        Raises:
            ValueError: An argument outside its range, of another shape, type or device than the
                state, or not finite; a type that cannot hold the states of the process; what the
                sampler cannot do on this process.
            TypeError: x_init is not floating point, or generator is neither one nor a list of them.

        Warns:
            UserWarning: Samples contain NaN or Inf.
        """
        if len(shape) < 2 or min(shape) < 1:
            raise ValueError(
                f"shape must be (B, *) with B ≥ 1 and a coordinate at least, got {tuple(shape)}"
            )
        if trajectory < 0 or trajectory == 1:
            raise ValueError(f"trajectory must be 0 or an integer ≥ 2, got {trajectory}")
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be finite and ≥ 0, got {temperature}")
        generator = sources(shape[0], generator, seeds)
        if x_init is None:
            check_range(sde, dtype or torch.get_default_dtype())
            x = sde.prior(tuple(shape)).sample(generator, dtype=dtype, device=device)
            x = x if temperature == 1 else x * temperature
        else:
            check_floating("x_init", x_init)
            check_range(sde, x_init.dtype)
            x = _check_state("x_init", x_init, tuple(shape))
            _check_same("dtype", dtype, x.dtype)
            _check_same("device", None if device is None else torch.device(device), x.device)
        run = SamplingContext(generator, constraint, callback, progress, trajectory, noise)
        run.temperature, run.differentiable, run.drawn = temperature, differentiable, x_init is None
        return self._follow(sde, score, x, run)

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
        """Carry data to latents at T along the deterministic path of the sampler.

        The data stand for states at the last time of the grid that has noise. With `DDIM()` this is
        DDIM inversion.

        Args:
            sde: Process.
            score: s(x, t).
            x0: Data, shape (B, *), floating point.
            progress, callback, trajectory, differentiable: As in sampling.

        Returns:
            Latents, the `x_init` from which the sampler returns to the data.

        Raises:
            ValueError: The sampler draws noise, or x0's type cannot hold the states of the process.

        Reference: Song, Meng & Ermon 2021, arXiv:2010.02502 (section 4.3); Song et al. 2021,
        arXiv:2011.13456 (appendix D.3).
        """
        x = _check_state("x0", x0, tuple(x0.shape))
        if x.ndim < 2 or x.numel() == 0:
            raise ValueError(f"x0 must be (B, *) with B ≥ 1, got {tuple(x.shape)}")
        check_range(sde, x.dtype)
        run = SamplingContext(None, None, callback, progress, trajectory, encode=True)
        run.differentiable = differentiable
        return self._follow(sde, score, x, run)

    def _follow(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Samples:
        """Run from x, counting the evaluations."""
        dtype = x.dtype
        caution_training(score)
        start = "x0" if run.encode else "x_init"
        check_graph(start, x, run.differentiable, "samplers drop", "sample")
        run.dtype = computing_dtype(score, x)
        on = getattr(run.constraint, "on", None)
        run.constraint = run.constraint if on is None else on(sde)
        if widened(x) is not x:
            score, callback, run.constrained = CastScore(score, dtype), run.callback, dtype
            run.callback = callback and (lambda step, t, x: callback(step, t, x.to(dtype)))
        evaluations = Evaluations(score, len(x))
        try:
            with torch.set_grad_enabled(run.differentiable):
                x = self.run(sde, evaluations, widened(x), run)
        finally:
            run.end()
        if (bad := first_not_finite(x)) is not None:
            count = int((~x.reshape(len(x), -1).isfinite().all(1)).sum())
            warnings.warn(
                f"{count} of {len(x)} samples hold NaN or Inf, the first of them sample {bad}: the "
                "score is not finite on their way, or the steps are too long",
                stacklevel=3,
            )
        if run.frames:
            run.frames[-1] = x  # the last frame is what is returned, without the last noise
        frames = torch.stack(run.frames).to(dtype) if run.frames else None
        nfe, products = evaluations.count / len(x), evaluations.product_count / len(x)
        return Samples(x.to(dtype), nfe, frames, products + run.products)


def draw(
    sampler: Sampler,
    sde: SDE,
    score: Score,
    shape: tuple[int, ...],
    batch_size: int,
    *,
    generator: Randomness = None,
    seeds: Sequence[int] | None = None,
    constraint: Constraint | None = None,
    progress: bool = False,
    trajectory: int = 0,
    device: torch.device | str | None = None,
) -> Samples:
    """Generate many samples in batches; the trajectory is that of the first batch.

    Args:
        sampler: Sampler; with a method `rows` where it has measurements of each sample.
        sde: Process.
        score: s(x, t), where conditions are those of all N samples.
        shape: Shape (N, *) of all samples.
        batch_size: Most samples at once, ≥ 1.
        generator: Source of all noise, or N of them, each for one sample.
        seeds: Seeds of N generators. With one for each sample, samples do not depend on batch_size.
        constraint: As for the sampler; with a method `rows` where it has values for each sample.
        progress, trajectory, device: As for the sampler.

    Raises:
        ValueError: batch_size is not an integer ≥ 1, or as for the sampler.
    """
    size = check_steps(batch_size, "batch_size")
    generator = sources(shape[0], generator, seeds)
    parts, whole = list[Samples](), Evaluations(score, shape[0])
    for numbers in torch.arange(shape[0]).split(size):
        own = generator
        if isinstance(generator, Sequence):
            own = generator[numbers[0] : numbers[-1] + 1]
        with silent() if parts else nullcontext():
            held = None if constraint is None else rows(constraint, numbers)
            run = rows(sampler, numbers)(
                sde,
                rows(whole, numbers),
                (len(numbers), *shape[1:]),
                generator=own,
                constraint=held,
                progress=progress,
                trajectory=0 if parts else trajectory,
                device=device,
            )
            parts.append(run)
    nfe, products = (
        sum(getattr(part, name) * len(part.x) for part in parts) / shape[0]
        for name in ("nfe", "products")
    )
    return Samples(torch.cat([part.x for part in parts]), nfe, parts[0].trajectory, products)


def sources(count: int, generator: Randomness, seeds: Sequence[int] | None) -> Randomness:
    """The sources of noise of `count` samples: those given, or a generator for each seed."""
    if seeds is None:
        given = "generators"
    elif generator is not None:
        raise ValueError("got both generator and seeds, which both are sources of noise; give one")
    else:
        given = "seeds"
        generator = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    if not isinstance(generator, torch.Generator | Sequence | None):
        raise TypeError(
            f"generator must be a torch.Generator or a list of them, got {type(generator).__name__}"
        )
    if isinstance(generator, Sequence) and len(generator) != count:
        raise ValueError(
            f"{count} samples need as many {given}, one for each, got {len(generator)}"
        )
    return generator


def _check_same(name: str, asked: object, given: object) -> None:
    """Refuse a type or device other than that of x_init."""
    if asked is not None and asked != given:
        raise ValueError(f"x_init has {name} {given}, and {name}={asked} is asked for; convert it")


def _check_state(name: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    check_floating(name, x)
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} must have the shape asked for, {shape}, got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError(f"{name} contains NaN/Inf")
    return x
