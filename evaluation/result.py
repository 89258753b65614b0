"""What a likelihood is, with all that must be said beside it."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from scoresde.sde.data_range import Cells


@dataclass(frozen=True)
class Likelihood:
    """Likelihoods of B samples, in nats, and where their errors come from.

    Attributes:
        log_prob: log p_eps(x) of points; of quantized data k the estimate of log P(k), or of a
            lower bound of it. Float64, shape (B,).
        latent: x_T, the end of the flow, shape (B, *), of the first draw where there are several;
            None where latents were not kept.
        nfe: Evaluations of the score that each sample took part in, shape (B,).
        solver_error: Sum of the sizes of the solver's estimated errors of log p, shape (B,).
        probe_error: Standard error of log p by the probes of its divergence, shape (B,): 0 where it
            is exact, NaN where one probe cannot tell.
        dequantization_error: The same by the draws within the cells: 0 for points, NaN where one
            draw cannot tell.
        dim: Number of coordinates D of a sample.
        eps: Time at which the density was taken.
        divergence: Name of the rule for ∇·s.
        cells: Cells of quantized data, or None for points.
        dequantization: How values became points, or None for points.
        samples: Draws within the cells of each sample.
        bound: Whether the expectation of log_prob is a lower bound of log P(k).
    """

    log_prob: Tensor
    latent: Tensor | None
    nfe: Tensor
    solver_error: Tensor
    probe_error: Tensor
    dequantization_error: Tensor
    dim: int
    eps: float
    divergence: str
    cells: Cells | None = None
    dequantization: str | None = None
    samples: int = 1
    bound: bool = False

    @property
    def bits_per_dim(self) -> Tensor:
        """−log₂ P(k)/D of quantized data, float64, shape (B,).

        Raises:
            ValueError: These are likelihoods of points: a density has no code length.
        """
        if self.cells is None:
            raise ValueError(
                "a density of points has no bits/dim: it depends on their unit; "
                "use quantized_likelihood, which knows the cells"
            )
        return -self.log_prob / (self.dim * math.log(2))

    def summary(self) -> dict[str, Any]:
        """Mean, its standard errors by source, and what they mean, as entries of result.json.

        `data` is the deviation between samples, and holds the chance of all the others; `probe` and
        `dequantization` are their shares of it, where they can be told; `solver` has a sign and
        does not average out: it is the mean of the sums of estimated errors. Samples without a
        likelihood are counted, and left out of all the rest.
        """
        known = self.log_prob.isfinite()
        value = (self.log_prob if self.cells is None else self.bits_per_dim)[known]
        unit = 1.0 if self.cells is None else 1 / (self.dim * math.log(2))
        n = len(value)
        errors = {
            "data": (value.std() / math.sqrt(n)).item() if n > 1 else math.nan,
            "probe": unit * self.probe_error[known].norm().item() / max(n, 1),
            "dequantization": unit * self.dequantization_error[known].norm().item() / max(n, 1),
            "solver": unit * self.solver_error[known].mean().item(),
        }
        name = "log_likelihood" if self.cells is None else "bits_per_dim"
        summary: dict[str, Any] = {
            name: value.mean().item(),
            f"{name}_error": errors["data"],
            "likelihood_errors": errors,
            "likelihood_samples": n,
            "likelihood_failed": len(known) - n,
            "likelihood_nfe": self.nfe.double().mean().item(),
            "divergence": self.divergence,
            "eps": self.eps,
        }
        if self.cells is not None:
            summary |= {
                "bound": self.bound,
                "dequantization": self.dequantization,
                "dequantization_samples": self.samples,
                "levels": self.cells.levels,
                "range": [self.cells.low, self.cells.high],
            }
        return summary


def tell_failed(failed: Tensor, index: Sequence[int], name: str) -> None:
    """Warn of samples that have no likelihood.

    Args:
        failed: Which they are, shape (B,).
        index: Numbers of the samples.
        name: What they have none of.
    """
    bad = failed.nonzero()[:, 0].tolist()
    if bad:
        warnings.warn(
            f"{len(bad)} of {len(failed)} samples have no {name}, the first of them sample "
            f"{index[bad[0]]}: the model is not finite on their way, and means leave them out",
            stacklevel=3,
        )


def join(parts: Sequence[Likelihood]) -> Likelihood:
    """The likelihoods of several batches as those of one."""
    values = {field.name: getattr(parts[0], field.name) for field in fields(Likelihood)}
    columns = {name for name, value in values.items() if isinstance(value, Tensor)}
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in columns}
    return Likelihood(**(values | joined))
