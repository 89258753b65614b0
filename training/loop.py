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
"""batches(step): the training batch, which depends on the step alone."""

Losses = Loss | Callable[..., Tensor]
Optimizer = torch.optim.Optimizer


@dataclass(frozen=True)
class Step:
    """The state that the loop yields after each step.

    Attributes:
        step: Number of steps done.
        loss: Loss before the update, or the sum of several; shape (), on its device, which only
            reading the value waits for.
        grad_norm: Norm of the gradient before clipping, or the largest of several; shape (), on
            its device.
        lr: Learning rate of the update, the first of several.
        losses: Losses by their names.
    """

    step: int
    loss: Tensor
    grad_norm: Tensor
    lr: float
    losses: Mapping[str, Tensor]


@dataclass(frozen=True)
class Warmup:
    """Learning-rate factor: linear warm-up, then constant or a half cosine to zero.

    The factor of the first step is 1/warmup, not 0.

    Args:
        warmup: Steps of warm-up ≥ 0.
        decay: `none` or `cosine`.
        steps: Steps of the whole training, at whose end the cosine is 0.

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
    """One loss and the optimizer of the parameters that it trains; a step has one or several."""

    name: str
    loss: Loss
    optimizer: Optimizer
    rates: list[float]

    @classmethod
    def of(cls, name: str, loss: Losses, optimizer: Optimizer) -> "_Turn":
        """A turn whose base rates are the current rates of its optimizer."""
        rates = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        return cls(name, loss if isinstance(loss, Loss) else Plain(loss), optimizer, rates)

    def gradient(
        self, model: nn.Module, batch: Batch | Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """The loss, after storing its gradient in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        value = self.loss(model, batch, generator)
        value.backward()
        return value.detach()

    def clip(self, grad_clip: float) -> Tensor:
        """Clip the gradient to a norm of at most `grad_clip`; return its norm before that."""
        groups = self.optimizer.param_groups
        return nn.utils.clip_grad_norm_((p for g in groups for p in g["params"]), grad_clip)

    def set_rate(self, factor: float) -> None:
        """Set the learning rates of the next update."""
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
    """Train, yielding after every step, so that logging and checkpoints stay outside.

    Several networks, such as a student and its teacher or a generator and a discriminator, are one
    `nn.ModuleDict` for loop, losses, average and checkpoint. If they have several losses, losses
    and optimizers are dicts with the same names. A step then updates by each loss in turn, on the
    same batch and on the networks after the preceding updates. An update whose gradient is not
    finite is left out.

    Args:
        model: Network of the loss, such as s(x, t).
        loss: loss(model, batch, generator), or a dict of several.
        batches: Batch of each step.
        optimizer: Optimizer of the trained parameters, whose current learning rate is the base
            rate; or a dict of several, one for each loss.
        ema: Average of the model.
        steps: Number of the last step.
        start: Number of steps already done.
        schedule: Factor of the base rates at each step.
        grad_clip: Largest norm of the gradient of a loss; inf for none.
        generator: Source of the losses' noise.
        patience: Number of consecutive non-finite steps that ends the training.

    Raises:
        ValueError: Losses and optimizers have different names, or a loss refuses the model.
        FloatingPointError: `patience` consecutive non-finite steps.
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
    """The turns of a step, in the order of the losses."""
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
