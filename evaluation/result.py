"""Likelihoods and their bounds, with the errors that have to be reported next to them."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from scoresde.sde.data_range import Cells


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihoods of B samples in nats, and the sources of their errors.

    Attributes:
        log_prob: log p_eps(x) of points; for quantized data k the estimate of log P(k), or of a
            lower bound of it. Float64, shape (B,).
        latent: x_T, the end of the flow, shape (B, *), of the first dequantized point where there
            are several; None where latents were not kept.
        nfe: Number of evaluations of the score that each sample took part in, shape (B,).
        solver_error: Sum of the absolute values of the solver's error estimates of log p, (B,).
        probe_error: Standard error of log p that comes from the probes of the divergence, shape
            (B,): 0 for an exact divergence, NaN where there is a single probe.
        dequantization_error: Standard error that comes from the points within the cells, shape
            (B,): 0 for points, NaN where there is a single one.
        dim: Number of coordinates D of a sample.
        eps: Time of the density.
        divergence: Name of the estimator of ∇·s.
        cells: Cells of quantized data, or None for points.
        dequantization: Name of the dequantization, or None for points.
        samples: Number of points within the cell of each sample.
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
        """Mean, standard errors by source, and settings, as entries of result.json.

        `data` is the standard error from the spread between samples, which includes the randomness
        of probes and dequantization; `probe` and `dequantization` are their parts of it, where they
        can be estimated. `solver` is the mean of the summed error estimates: errors of the solver
        have a sign and do not average out. Samples without a likelihood are counted, and excluded
        from everything else.
        """
        known = self.log_prob.isfinite()
        value = (self.log_prob if self.cells is None else self.bits_per_dim)[known]
        unit = 1.0 if self.cells is None else 1 / (self.dim * math.log(2))
        n = len(value)
        mean, error = mean_and_error(value) if n else (math.nan, math.nan)
        errors = {
            "data": error,
            "probe": unit * self.probe_error[known].norm().item() / max(n, 1),
            "dequantization": unit * self.dequantization_error[known].norm().item() / max(n, 1),
            "solver": unit * self.solver_error[known].mean().item(),
        }
        name = "log_likelihood" if self.cells is None else "bits_per_dim"
        summary: dict[str, Any] = {
            name: mean,
            f"{name}_error": error,
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


@dataclass(frozen=True)
class VariationalBound:
    """Bounds −log P(k) ≤ prior + diffusion + decoder of B samples, in nats, float64.

    Attributes:
        prior: KL(q(x_T | x_0) ‖ prior), shape (B,).
        diffusion: Sum or integral of the terms between T and the lowest level, shape (B,).
        decoder: −log p(k | x) at the lowest level, shape (B,).
        terms: Single terms of the diffusion, before they are summed or averaged, shape (B, M).
        times: Times of the terms, shape (B, M).
        error: Standard error of `diffusion` from the choice of terms, shape (B,); 0 where all terms
            were evaluated. Each term is still evaluated at a single noise.
        dim: Number of coordinates D.
        cells: Cells of the data.
        name: `vlb` or `elbo`.
        eps: Lowest time, that of the decoder.
        steps: Number of steps of the chain; None in continuous time.
        variance: Kind of variance of the steps; None in continuous time.
    """

    prior: Tensor
    diffusion: Tensor
    decoder: Tensor
    terms: Tensor
    times: Tensor
    error: Tensor
    dim: int
    cells: Cells
    name: str
    eps: float
    steps: int | None = None
    variance: str | None = None

    @property
    def log_prob(self) -> Tensor:
        """The lower bound of log P(k) in nats, shape (B,)."""
        return -(self.prior + self.diffusion + self.decoder)

    @property
    def bits_per_dim(self) -> Tensor:
        """The upper bound of −log₂ P(k)/D, shape (B,)."""
        return -self.log_prob / (self.dim * math.log(2))

    def summary(self) -> dict[str, Any]:
        """Mean, its standard error, and its three parts, as entries of result.json.

        Samples without a bound are counted, and excluded from everything else.
        """
        known, unit = ~self.log_prob.isnan(), 1 / (self.dim * math.log(2))
        bits = self.bits_per_dim[known]
        n = len(bits)
        mean, error = mean_and_error(bits) if n else (math.nan, math.nan)
        return {
            self.name: {
                "bits_per_dim": mean,
                "bits_per_dim_error": error,
                "bound": True,
                "prior": unit * self.prior[known].mean().item(),
                "diffusion": unit * self.diffusion[known].mean().item(),
                "decoder": unit * self.decoder[known].mean().item(),
                "terms_error": unit * self.error[known].norm().item() / max(n, 1),
                "samples": n,
                "failed": len(known) - n,
                "terms": self.terms.shape[1],
                "eps": self.eps,
                **({} if self.steps is None else {"steps": self.steps, "variance": self.variance}),
                "levels": self.cells.levels,
                "range": [self.cells.low, self.cells.high],
            }
        }


Result = TypeVar("Result", Likelihood, VariationalBound)


def join(parts: Sequence[Result]) -> Result:
    """The results of one or more batches with the same settings as one, in their order."""
    names = [f.name for f in fields(parts[0]) if isinstance(getattr(parts[0], f.name), Tensor)]
    columns: dict[str, Any] = {n: torch.cat([getattr(part, n) for part in parts]) for n in names}
    return replace(parts[0], **columns)


def mean_and_error(values: Tensor | ArrayLike) -> tuple[float, float]:
    """The mean of independent values and its standard error, std / √N with N − 1 in std.

    Args:
        values: Shape (N,), N ≥ 1. The error of a single value is NaN: it cannot be estimated.

    Raises:
        ValueError: The values are not one-dimensional, or there are none.
    """
    array = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"values must have shape (N ≥ 1,), got {tuple(array.shape)}")
    error = math.nan if len(array) == 1 else (array.std() / math.sqrt(len(array))).item()
    return array.mean().item(), error


def warn_failed(failed: Tensor, sample_ids: Sequence[int], name: str) -> None:
    """Warn of the samples that have `failed` (B,) to get what the message names."""
    bad = failed.nonzero()[:, 0].tolist()
    if bad:
        warnings.warn(
            f"{len(bad)} of {len(failed)} samples have no {name}, the first of them sample "
            f"{sample_ids[bad[0]]}: the score is not finite on their path; means exclude them",
            stacklevel=3,
        )
