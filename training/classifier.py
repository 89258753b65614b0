"""The loss of a classifier of noisy states."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.checks import check_count

from .objective import Batch, Loss, unpack
from .times import TimeDistribution, noisy, uniform_times


class ClassifierLoss(Loss):
    """The cross-entropy of a classifier on noisy states, in nats.

        −E_t E_{x_0, y, z} log p_φ(y | x_t, t),   x_t = α(t) x_0 + σ(t) z

    Its minimum is the true p_t(y | x_t) at each time, whose gradient guides a score exactly.

    Args:
        sde: Process.
        times: Distribution of t; by default uniform on [eps, T].
        shift: Most pixels ≥ 0 by which images are moved along each axis, at random, before the
            noise; pixels that enter repeat those at the edge.

    Raises:
        ValueError: shift is not an integer ≥ 0.

    Reference: Dhariwal & Nichol 2021, arXiv:2105.05233 (section 4, appendix H).
    """

    def __init__(self, sde: SDE, times: TimeDistribution = uniform_times, shift: int = 0) -> None:
        self.sde, self.times, self.shift = sde, times, check_count("shift", shift, 0)

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the loss from one t and one z for each sample; see `Loss`.

        The model gives logits (B, K) of x_t and t, and the condition of the batch is the class y.

        Raises:
            ValueError: The batch has no classes, or images are smaller than the shift.
        """
        x0, labels = unpack(batch)
        if not isinstance(labels, Tensor):
            raise ValueError("a classifier learns the classes of its data, got a batch without")
        if self.shift:
            x0 = moved(x0, self.shift, generator)
        x, t, _ = noisy(self.sde, self.times, x0, generator)
        return F.cross_entropy(model(x, t), labels)


def moved(x: Tensor, shift: int, generator: torch.Generator | None = None) -> Tensor:
    """Images moved by up to `shift` pixels along each axis, each by its own; shape of x.

    Args:
        x: Images, shape (B, C, H, W).
        shift: Most pixels ≥ 1.
        generator: Source of the moves, on x's device.

    Raises:
        ValueError: x is no batch of images.
    """
    if x.ndim != 4:
        raise ValueError(f"only images (B, C, H, W) are moved, got {tuple(x.shape)}; use shift=0")
    count, _, height, width = x.shape
    by = torch.randint(-shift, shift + 1, (2, count), generator=generator, device=x.device)
    rows = (torch.arange(height, device=x.device) + by[0, :, None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + by[1, :, None]).clamp(0, width - 1)
    sample = torch.arange(count, device=x.device)[:, None, None]
    return x.movedim(1, -1)[sample, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
