"""Posterior methods without a Jacobian: the data given a state as N(D, r² I), and DiffPIR."""

from torch import Tensor

from scoresde.samplers import Grid
from scoresde.samplers.context import Noise
from scoresde.sde.checks import check_between, check_positive

from .measurements import Measurement
from .pigdm import back_project
from .posterior_sampler import Move, PosteriorSampler
from .posterior_score import PosteriorMethod
from .prediction import Prediction
from .requirements import linear


class Proximal(PosteriorMethod):
    """The data nearest to the prediction and to the measurement: ΠGDM without its Jacobian.

        D_y = argmin_x ‖x − D‖²/r² + ‖y − H x‖²/σ_y² = D + r² Hᵀ (r² H Hᵀ + σ_y² I)⁻¹ (y − H D),
        r² = v_0 ς²/(v_0 + ς²)

    It approximates the covariance C of the data given x_t by r² I twice, also where it carries the
    measurement to the coordinates that were not measured: those of a mask learn of the others
    through the network alone, as in DDNM, whose projection this is for σ_y = 0. The error is large
    for masks and small for poolings.

    Cost: none but the network's evaluation.

    Args:
        v0: v_0 > 0, the variance of a coordinate of the data, or inf for r = ς.

    Raises:
        ValueError: v_0 is not a number > 0.

    Reference: Song, Vahdat, Mardani & Kautz, ICLR 2023 (section 3) for r².
    """

    products = 0

    def __init__(self, v0: float = 1.0) -> None:
        self.v0 = float(check_positive("v0", v0))

    def check(self, measurement: Measurement) -> None:
        """Refuse a measurement that is not linear; see `PosteriorMethod.check`."""
        linear(measurement, "Proximal")

    def correct(self, prediction: Prediction, measurement: Measurement) -> Tensor:
        """D_y; see `PosteriorMethod.correct`."""
        r2 = prediction.variance / (1 + prediction.variance / self.v0)
        return proximal(measurement, prediction.mean, r2)


def proximal(measurement: Measurement, data: Tensor, r2: Tensor) -> Tensor:
    """argmin_x ‖x − D‖²/r² + ‖y − H x‖²/σ_y², for a linear H; shape of D.

    Args:
        measurement: y.
        data: D, shape (B, *).
        r2: r², broadcast over D, one for each sample or for all.
    """
    operator = linear(measurement, "the proximal step")
    if measurement.exact:
        return project(measurement, data)
    return data + r2 * back_project(measurement, operator, data, r2)


def project(measurement: Measurement, data: Tensor) -> Tensor:
    """D − H⁺H D + H⁺y, in which the coordinates that a mask knows are those of y in every bit."""
    operator = linear(measurement, "the projection")
    return data - operator.project(data) + operator.pinv(measurement.y.to(data))


class DiffPIR(PosteriorSampler):
    """Denoising diffusion for plug-and-play restoration: proximal data, and noise added to them.

        D_y = argmin_x ‖y − H x‖² + ρ ‖x − D‖²,   ρ = λ σ_y²/ς_t²,
        x̄_u = D_y + ς_u (√(1 − ζ) (x̄_t − D_y)/ς_t + √ζ z)

    It approximates the covariance of the data given x_t by (ς²/λ) I, as `Proximal` does, and like
    DDRM redraws a share of all noise in each step, so that samples vary too little as steps become
    more: on N(0, v) without a measurement the variance tends to v (1 + √(1 − ζ))/2.

    Cost: one evaluation for each step.

    Args:
        measurement: y, linear.
        weight: λ > 0; 3 to 25 in the paper.
        zeta: ζ in [0, 1], the share of the noise's variance that is drawn anew; 0.1 to 1 there.
        steps: Steps of the grid ≥ 1.
        grid, denoise: As for every `PosteriorSampler`.

    Raises:
        ValueError: A constant out of its range, or a measurement that is not linear.

    Reference: Zhu et al. 2023, arXiv:2305.08995 (algorithm 1).
    """

    def __init__(
        self,
        measurement: Measurement,
        weight: float = 8.0,
        zeta: float = 0.3,
        steps: int = 100,
        *,
        grid: Grid | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(measurement, steps, grid=grid, denoise=denoise)
        linear(measurement, "DiffPIR")
        self.weight = check_positive("weight", weight)
        self.zeta = check_between("zeta", zeta, 0, 1)

    def update(self, x: Tensor, prediction: Prediction, move: Move, noise: Noise) -> Tensor:
        """x̄_u; see `PosteriorSampler.update`."""
        r2 = x.new_tensor(move.level**2 / self.weight)
        data = proximal(self.measurement, prediction.mean, r2)
        keep, fresh = (1 - self.zeta) ** 0.5, self.zeta**0.5
        return data + move.level_next * (keep * (x - data) / move.level + fresh * noise(x))
