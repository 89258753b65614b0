"""One call of a sampler: its noise, its constraint, its trajectory and its progress bar."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde.sde.prior import Randomness, standard_normal
from scoresde.sde.score import like

Noise = Callable[[Tensor], Tensor]
"""noise(x): standard normal noise of x's shape."""

Constraint = Callable[[Tensor, Tensor, Noise], Tensor]
"""constraint(x, t, noise) -> x, applied after every update, as in inpainting.

noise(x) is the run's own: of x's shape, from the generator of each sample, at its temperature. A
constraint may have three methods: `on(sde)` returns it for a process, `finish(x, t)` acts on the
state that is returned, which has no noise, and `rows(index)` returns that of some samples."""

Callback = Callable[[int, Tensor, Tensor], None]
"""callback(step, t, x), called after every step of a grid."""


@dataclass
class SamplingContext:
    """One call of a sampler; see `Sampler.__call__` for the arguments."""

    generator: Randomness = None
    constraint: Constraint | None = None
    callback: Callback | None = None
    progress: bool = False
    keep: int = 0
    source: Noise | None = None
    temperature: float = 1.0
    encode: bool = False
    drawn: bool = False  # whether the first state is a sample of the prior
    differentiable: bool = False
    dtype: torch.dtype | None = None  # in which the score computes, where it is known
    constrained: torch.dtype | None = None  # in which the constraint sees states, if not in theirs
    products: int = 0  # vector–Jacobian products of the sampler's own updates, for each sample
    frames: list[Tensor] = field(default_factory=list)
    _bar: tqdm | None = None
    _kept: set[int] = field(default_factory=set)

    def noise(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Normal noise of x's shape, whose standard deviation is the temperature.

        Args:
            x: State, shape (A, *).
            index: Numbers of its samples in the batch, shape (A,), where it is a part of it.
        """
        if self.source is not None:
            z = like(x, self.source(x), "noise").clone()  # x + std z overwrites z
        else:
            generator = self.generator
            if index is not None and isinstance(generator, Sequence):
                generator = [generator[i] for i in index.tolist()]
            z = standard_normal(x.shape, generator, x.dtype, x.device)
        return z if self.temperature == 1 else z * self.temperature

    @property
    def watched(self) -> bool:
        """Whether the states between the first and the last are used outside of the solver."""
        return bool(self.keep) or self.callback is not None or self.constraint is not None

    def begin(self, steps: int | None, x: Tensor) -> None:
        """Begin a loop of `steps` steps from state x; None for adaptive steps.

        Raises:
            ValueError: More states are to be kept than there are.
        """
        if steps is not None and self.keep > steps + 1:
            raise ValueError(
                f"trajectory={self.keep} asks for more states than the {steps + 1} that {steps} "
                f"steps have; keep {steps + 1} at most, or take more steps"
            )
        steps = 100 if steps is None else steps
        # disable=None: no bar without a terminal.
        self._bar = tqdm(total=steps, disable=None, leave=False) if self.progress else None
        if self.keep:
            self._kept = set(torch.linspace(0, steps, self.keep).round().int().tolist())
            self.frames.append(x.clone())

    def visit(self, step: int, t: Tensor, x: Tensor) -> None:
        """Keep and report the state x at time t, after step number `step` ≥ 1."""
        if self._bar is not None:
            self._bar.update()
        if step in self._kept:
            self.frames.append(x.clone())
        if self.callback is not None:
            self.callback(step, t, x)

    def report(self, times: Iterable[Tensor], frames: Iterable[Tensor], end: Tensor) -> None:
        """Keep and report states on the way of a finished solution, and keep its end.

        The end is replaced by what the sampler returns, such as its posterior mean.
        """
        for step, (t, x) in enumerate(zip(times, frames, strict=True), start=1):
            self.frames.append(x)
            if self.callback is not None:
                self.callback(step, t, x)
        if self.keep:
            self.frames.append(end)

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
        if self.constraint is None:
            return x
        return like(x, self.constraint(self._seen(x), t, self.noise), "the constraint")

    def finish(self, x: Tensor, t: Tensor) -> Tensor:
        """Apply the constraint, if there is one, to the state that is returned."""
        own = getattr(self.constraint, "finish", None)
        if own is None:
            return self.constrain(x, t)
        return like(x, own(self._seen(x), t), "the constraint")

    def _seen(self, x: Tensor) -> Tensor:
        """A state in the type in which the constraint sees it."""
        return x if self.constrained is None else x.to(self.constrained)

    def refuse_constraint(self, sampler: str) -> None:
        """Raise ValueError if there is a constraint, for a sampler whose steps cannot obey it."""
        if self.constraint is not None:
            raise ValueError(
                f"{sampler} takes no constraint; use PredictorCorrector, AnnealedLangevin or "
                "NoiseAdaptive, which have fixed steps"
            )
