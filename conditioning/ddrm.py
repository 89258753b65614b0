"""Denoising diffusion restoration: steps in the singular vectors of a linear measurement."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from scoresde.samplers import Grid
from scoresde.samplers.context import Noise
from scoresde.sde.checks import check_between

from .measurements import Measurement
from .posterior_sampler import Move, PosteriorSampler
from .prediction import Prediction
from .requirements import spectral


class DDRM(PosteriorSampler):
    """Denoising diffusion restoration models: each singular vector is led by y or by D.

    In coordinates Vᵀx̄ of H = U S Vᵀ, with ȳ_i = (Uᵀy)_i/s_i and its noise ν_i = σ_y/s_i, the start
    is x̄_i ~ N(ȳ_i, ς_T² − ν_i²) where ς_T ≥ ν_i and N(0, ς_T²) elsewhere, and a step is

        x̄_i = (1 − η_b) D_i + η_b ȳ_i + √(ς_u² − η_b² ν_i²) z_i           where ς_u ≥ ν_i,
        x̄_i = D_i + ς_u (√(1 − η_a²) (ȳ_i − D_i)/ν_i + η_a z_i)           where ς_u < ν_i,
        x̄_i = D_i + ς_u (√(1 − η²) (x̄_i − D_i)/ς_t + η z_i)               where s_i = 0

    The first line holds down to ς_u = 0 for σ_y = 0, so that samples end with what was measured.

    It approximates the posterior for no number of steps: coordinates that were not measured learn
    of y through D alone; a share η of all noise is drawn anew in each step, which leaves the
    variance v (1 + √(1 − η²))/2 of data N(0, v) as steps become more, 0.76 v by default; and those
    below their noise are led away from y again, to the prior for η = 1. Its 20 steps should not be
    refined.

    Cost: one evaluation for each step.

    Args:
        measurement: y, of an operator with known singular vectors.
        eta: η in [0, 1].
        eta_b: η_b in [0, 1].
        eta_a: η_a in [0, 1]; η where not given, as in the paper.
        steps: Steps of the grid ≥ 1.
        grid, denoise: As for every `PosteriorSampler`. The start takes its noise from the state at
            T, also from an x_init.

    Raises:
        ValueError: A constant out of its range, or a measurement without known singular vectors.

    Reference: Kawar et al. 2022, arXiv:2201.11793 (eq. 4, 7, 8).
    """

    def __init__(
        self,
        measurement: Measurement,
        eta: float = 0.85,
        eta_b: float = 1.0,
        eta_a: float | None = None,
        steps: int = 20,
        *,
        grid: Grid | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(measurement, steps, grid=grid, denoise=denoise)
        spectral(measurement, "DDRM")
        measured(measurement, measurement.y)  # refuses noise of more than one level
        self.eta, self.eta_b = check_between("eta", eta, 0, 1), check_between("eta_b", eta_b, 0, 1)
        self.eta_a = self.eta if eta_a is None else check_between("eta_a", eta_a, 0, 1)

    def begin(self, x: Tensor, level: float) -> Tensor:
        """x̄_T; see `PosteriorSampler.begin`."""
        operator = spectral(self.measurement, "DDRM")
        nu, y = measured(self.measurement, x)
        inside, led = operator.to_spectral(x), level >= nu
        spread = (level**2 - nu.where(led, nu.new_zeros(())).square()).sqrt() / level
        start = y + spread.to(x) * inside
        return operator.from_spectral(torch.where(led.to(x.device), start, inside))

    def update(self, x: Tensor, prediction: Prediction, move: Move, noise: Noise) -> Tensor:
        """x̄_u; see `PosteriorSampler.update`."""
        etas = (self.eta, self.eta_b, self.eta_a)
        return spectral_update(self.measurement, x, prediction.mean, noise(x), move, etas)


def measured(measurement: Measurement, x: Tensor) -> tuple[Tensor, Tensor]:
    """ν_i = σ_y/s_i, float64, shape (D,), and ȳ_i = (Uᵀy)_i/s_i in x's type, shape (B or 1, D).

    Where s_i = 0 they are inf and 0. For an exact y this holds of all s_i that the pseudo-inverse
    leaves out, along which rounding would be magnified.
    """
    operator = spectral(measurement, "a step along singular vectors")
    s = operator.singular_values
    least = max(getattr(operator, "rcond", 0.0), 10 * torch.finfo(x.dtype).eps)
    seen = s > (least if measurement.exact else 0.0) * s.max()
    nu = torch.where(seen, measurement.std / s, math.inf)
    inverse = torch.where(seen, 1 / s, 0.0).to(x)
    y = operator.measure_spectral(measurement.y.to(x)) * inverse
    rest = math.prod(operator.shape) - len(s)
    return pad(nu, (0, rest), value=math.inf), pad(y, (0, rest))


def spectral_update(
    measurement: Measurement,
    x: Tensor,
    data: Tensor,
    z: Tensor,
    move: Move,
    etas: tuple[float, float, float],
) -> Tensor:
    """x̄_u of `DDRM`, shape of x.

    Args:
        measurement: y.
        x: x̄_t, shape (B, *).
        data: D, shape (B, *).
        z: Noise, shape (B, *).
        move: The step from ς_t to ς_u.
        etas: η, η_b and η_a.
    """
    operator = spectral(measurement, "a step along singular vectors")
    eta, eta_b, eta_a = etas
    level = move.level_next
    nu, y = measured(measurement, x)
    free, above = nu.isinf(), level >= nu
    # Along each vector x̄_u = (1 − w) D + w ȳ + c (x̄ − D) + r z; w = 0 where ν = ∞.
    w = level * math.sqrt(1 - eta_a**2) / nu.where(~above, nu.new_ones(()))
    w = w.where(~above, nu.new_tensor(eta_b))
    c = level / move.level * math.sqrt(1 - eta**2) * free.to(nu)
    r = (level**2 - (eta_b * nu.where(above, nu.new_zeros(()))).square()).sqrt()
    r = r.where(above, level * (eta * free.to(nu) + eta_a * (~free).to(nu)))
    data, state, z = (operator.to_spectral(v) for v in (data, x, z))
    w, c, r = (factor.to(x) for factor in (w, c, r))
    return operator.from_spectral((1 - w) * data + w * y + c * (state - data) + r * z)
