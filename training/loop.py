"""The training loop, one function read from top to bottom."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scoresde.sde.checks import check_choice

from .ema import EMA
from .objective import Batch, Loss, Plain

Batches = Callable[[int], Batch | Tensor]
"""batches(step): the training batch of a step, a function of nothing else."""

Losses = Loss | Callable[..., Tensor]
Optimizer = torch.optim.Optimizer


@dataclass(frozen=True)
class Step:
    """What the loop yields after each step.

    Attributes:
        step: Number of steps done.
        loss: Loss before the update, shape (), on its device, so that nobody waits for it; of
            several the sum.
        grad_norm: Norm of the gradient before clipping, shape (), on its device; of several the
            largest.
        lr: Learning rate of the update; of several that of the first.
        losses: Each of several losses, by its name.
    """

    step: int
    loss: Tensor
    grad_norm: Tensor
    lr: float
    losses: Mapping[str, Tensor]


@dataclass(frozen=True)
class Warmup:
    """Learning-rate factor: linear warm-up, then constant or a half cosine to zero.

    The first step already has 1/warmup of the rate, not 0.

    Args:
        warmup: Steps of warm-up ≥ 0.
        decay: `none` or `cosine`.
        steps: Steps of the whole training, where the cosine ends.

    Raises:
        ValueError: Unknown decay or negative warm-up.
    """

    warmup: int
    decay: str
    steps: int

    def __post_init__(self) -> None:
        check_choice("decay", self.decay, "none", "cosine")
        if self.warmup < 0:
            raise ValueError(f"warmup must be ≥ 0, got {self.warmup}")

    def __call__(self, step: int) -> float:
        """Factor of step number `step`, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.decay == "none":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class _Turn:
    """One loss and the optimizer of the parameters that it trains; a step takes one or several."""

    name: str
    loss: Loss
    optimizer: Optimizer
    rates: list[float]

    @classmethod
    def of(cls, name: str, loss: Losses, optimizer: Optimizer) -> "_Turn":
        """A turn, whose optimizer's present rates are the base rates."""
        rates = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        return cls(name, loss if isinstance(loss, Loss) else Plain(loss), optimizer, rates)

    def gradient(
        self, model: nn.Module, batch: Batch | Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """The loss, with its gradient left in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        value = self.loss(model, batch, generator)
        value.backward()
        return value.detach()

    def clip(self, grad_clip: float) -> Tensor:
        """The norm of the gradient, which is then no longer than `grad_clip`."""
        groups = self.optimizer.param_groups
        return nn.utils.clip_grad_norm_((p for g in groups for p in g["params"]), grad_clip)

    def set_rate(self, factor: float) -> None:
        """Set the rates of the next update."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor


def fit(
    model: nn.Module,
    loss: Losses | Mapping[str, Losses],
    batches: Batches,
    optimizer: Optimizer | Mapping[str, Optimizer],
    ema: EMA,
    *,
    steps: int,
    start: int = 0,
    schedule: Callable[[int], float],
    grad_clip: float = 1.0,
    generator: torch.Generator | None = None,
    patience: int = 10,
) -> Iterator[Step]:
    """Train, handing control back after every step, so that all else stays outside.

    Several networks, as a student and its teacher, or a generator and a discriminator, are one
    `nn.ModuleDict` to loop, losses, average and checkpoint. Where they have losses of their own,
    losses and optimizers are dicts with the same names, and a step takes their turns in this order,
    each on the same batch and the networks as the turns before have left them. An update whose
    gradient is not finite is left out.

    Args:
        model: s(x, t), or whatever the loss is of.
        loss: loss(model, batch, generator), or a dict of several.
        batches: Batch of each step.
        optimizer: Optimizer of the parameters that are trained, whose present rate is the base
            rate; or a dict of several, one for each loss.
        ema: Average of the model.
        steps: Number of the last step.
        start: Steps already done.
        schedule: Factor of the base rates at each step.
        grad_clip: Largest norm of the gradient of a loss; inf for none.
        generator: Source of the losses' noise.
        patience: How many non-finite steps in a row end the training.

    Raises:
        ValueError: Losses and optimizers have other names, or a model is none for a loss.
        FloatingPointError: `patience` non-finite steps in a row.
    """
    turns = _turns(loss, optimizer)
    for turn in turns:
        turn.loss.check(model)
    failures = 0
    model.train()
    for step in range(start, steps):
        factor, losses, norms = schedule(step), dict[str, Tensor](), list[Tensor]()
        batch, finite = batches(step), True
        for turn in turns:
            turn.loss.start(step, ema)
            turn.set_rate(factor)
            losses[turn.name] = turn.gradient(model, batch, generator)
            norms.append(turn.clip(grad_clip))
            if bool(norms[-1].isfinite()):
                turn.optimizer.step()
            else:
                finite = False
        value = sum(losses.values()) if len(losses) > 1 else losses[turns[0].name]
        assert isinstance(value, Tensor)
        if finite:
            failures = 0
            ema.update(model)
        else:
            failures += 1
            if failures >= patience:
                raise FloatingPointError(
                    f"the gradient was not finite in {failures} steps in a row, the last one "
                    f"step {step + 1} (loss {value.item():g}); lower train.optimizer.lr"
                )
        yield Step(step + 1, value, max(norms), turns[0].rates[0] * factor, losses)


def _turns(
    loss: Losses | Mapping[str, Losses], optimizer: Optimizer | Mapping[str, Optimizer]
) -> list[_Turn]:
    """The turns of a step, in the order of the losses.

    Raises:
        ValueError: Losses and optimizers have other names.
    """
    losses = loss if isinstance(loss, Mapping) else {"": loss}
    optimizers = optimizer if isinstance(optimizer, Mapping) else {"": optimizer}
    if not losses or set(losses) != set(optimizers):
        named = [
            ", ".join(one) if isinstance(given, Mapping) else "one without a name"
            for one, given in ((losses, loss), (optimizers, optimizer))
        ]
        raise ValueError(
            "each loss needs an optimizer of its name, got losses "
            f"{named[0] or 'none'} and optimizers {named[1] or 'none'}"
        )
    return [_Turn.of(name, one, optimizers[name]) for name, one in losses.items()]
