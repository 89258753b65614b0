"""Denoising diffusion null-space models: what was measured replaces its part of the prediction."""

from torch import Tensor

from scoresde.samplers import Grid
from scoresde.samplers.context import Noise
from scoresde.sde.checks import check_between, check_steps

from .ddrm import measured, spectral_update
from .diffpir import project
from .measurements import Measurement
from .posterior_sampler import Move, PosteriorSampler
from .posterior_score import PosteriorMethod
from .prediction import Prediction
from .repaint import schedule
from .requirements import linear, spectral


class DDNMProjection(PosteriorMethod):
    """The data prediction of DDNM as a score, for any sampler.

        D_y = D + H⁺ (y − H D)

    It approximates the coordinates that were not measured by those of D, which has not seen y; the
    error does not fall with the number of steps, and is that of replacement. It takes y as exact.

    Cost: none but the network's evaluation.

    Reference: Wang et al. 2023, arXiv:2212.00490 (eq. 13). Its sampler is `DDNM`.
    """

    products = 0

    def check(self, measurement: Measurement) -> None:
        """Refuse a measurement with noise, or not linear; see `PosteriorMethod.check`."""
        linear(measurement, "DDNMProjection")
        if not measurement.exact:
            raise ValueError(
                "DDNMProjection takes y as exact, got a measurement with noise; use Proximal(), or "
                "a measurement with std=0"
            )

    def correct(self, prediction: Prediction, measurement: Measurement) -> Tensor:
        """D_y; see `PosteriorMethod.correct`."""
        return project(measurement, prediction.mean)


class DDNM(PosteriorSampler):
    """Denoising diffusion null-space models, with time travel.

        D_y = D + H⁺ (y − H D),   x̄_u = D_y + ς_u (√(1 − η²) ẑ + η z),   ẑ = (x̄_t − D)/ς_t

    For σ_y > 0 the correction and the noise are scaled along each singular vector so that y's own
    noise is counted: with ȳ_i = (Uᵀy)_i/s_i and ν_i = σ_y/s_i these are the steps of `DDRM` with
    η_b = 1,

        x̄_i = ȳ_i + √(ς_u² − ν_i²) z_i                            where ς_u ≥ ν_i,
        x̄_i = D_i + ς_u (√(1 − η²) (ȳ_i − D_i)/ν_i + η z_i)       where ς_u < ν_i

    With time travel of length l, as in RePaint, l steps down are followed by l steps up, which are
    transitions of the process, r − 1 times.

    It approximates the coordinates that were not measured by those of D, and like DDRM redraws a
    share of all noise: on N(0, v) without a measurement the variance tends to v (1 + √(1 − η²))/2.

    Cost: one evaluation for each step down.

    Args:
        measurement: y, linear; with σ_y > 0 of an operator with known singular vectors.
        eta: η in [0, 1].
        steps: Steps of the grid ≥ 1.
        travel_length: l ≥ 1.
        repeats: r ≥ 1; 1 for no time travel.
        grid, denoise: As for every `PosteriorSampler`.

    Raises:
        ValueError: A constant out of its range, or a measurement that it cannot use.

    Reference: Wang et al. 2023, arXiv:2212.00490 (eq. 13, 17, 19, algorithm 2, appendix I).
    """

    def __init__(
        self,
        measurement: Measurement,
        eta: float = 0.85,
        steps: int = 100,
        travel_length: int = 1,
        repeats: int = 1,
        *,
        grid: Grid | None = None,
        denoise: bool = True,
    ) -> None:
        super().__init__(measurement, steps, grid=grid, denoise=denoise)
        linear(measurement, "DDNM")
        if not measurement.exact:
            spectral(measurement, "DDNM of a noisy measurement")
            measured(measurement, measurement.y)  # refuses noise of more than one level
        self.eta = check_between("eta", eta, 0, 1)
        self.travel_length = check_steps(travel_length, "travel_length")
        self.repeats = check_steps(repeats, "repeats")

    def travel(self, steps: int) -> list[int]:
        """Numbers of the grid's times in the order visited; see `PosteriorSampler.travel`.

        Times from which the path goes up lie travel_length apart, the last of them one step
        before the end.
        """
        order = [0]
        for end in schedule(steps, self.travel_length, self.repeats)[1:]:
            way = 1 if end > order[-1] else -1
            order += range(order[-1] + way, end + way, way)
        return order

    def update(self, x: Tensor, prediction: Prediction, move: Move, noise: Noise) -> Tensor:
        """x̄_u; see `PosteriorSampler.update`."""
        data, z = prediction.mean, noise(x)
        if not self.measurement.exact:
            etas = (self.eta, 1.0, self.eta)
            return spectral_update(self.measurement, x, data, z, move, etas)
        kept = (1 - self.eta**2) ** 0.5 * (x - data) / move.level
        return project(self.measurement, data) + move.level_next * (kept + self.eta * z)
