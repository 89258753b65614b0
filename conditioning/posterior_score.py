"""Posterior scores: a score and a measurement, s(x, t | y) = s + ∇ log p_t(y | x) approximately."""

from abc import ABC, abstractmethod

from torch import Tensor

from scoresde.sde import SDE, Score
from scoresde.sde.checks import check_switch

from .guided import Guided
from .measurements import Measurement
from .prediction import Prediction


class PosteriorMethod(ABC):
    """An approximation of E[x_0 | x_t, y] from the first moments of the data given x_t.

    Attributes:
        products: Vector–Jacobian products of one evaluation, at most; a method with 0 is evaluated
            without a graph.
    """

    products: int = 1

    @abstractmethod
    def check(self, measurement: Measurement) -> None:
        """Raise ValueError if the method cannot use a measurement."""

    @abstractmethod
    def correct(self, prediction: Prediction, measurement: Measurement) -> Tensor:
        """D_y, shape of D.

        Args:
            prediction: D = E[x_0 | x_t] and its covariance.
            measurement: y, with a row for each sample or one for all.
        """


class PosteriorScore(Guided):
    """The score of a posterior, D_y = D + (σ²/α) ∇ log p_t(y | x), by a method.

    Args:
        score: s(x, t).
        measurement: y = h(x_0) + σ_y n.
        method: What approximates E[x_0 | x_t, y], such as `DPS()`, `PiGDM()` or `MMPS()`.
        sde: Process, where the score does not carry one.
        recompute: Whether products with the Jacobian evaluate the blocks of the network again
            rather than keep their activations: on the network of DDPM++ for 32 pixels, 16 images
            take 0.75 GiB beyond a forward pass rather than 1.48, in 1.35 times the time. `nfe` does
            not count the blocks that are evaluated again.

    Raises:
        ValueError: The method cannot use the measurement, or the process is not known.
    """

    followers = ("score", "measurement")

    def __init__(
        self,
        score: Score,
        measurement: Measurement,
        method: PosteriorMethod,
        sde: SDE | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__(score, sde)
        method.check(measurement)
        self.measurement, self.method = measurement, method
        self.recompute = check_switch(recompute, "recompute")

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D_y(x, t); see `Guided.denoise`."""
        self.measurement.check_samples(x)
        jacobian = self.method.products > 0
        prediction = Prediction(self.sde, self.score, x, t, self.recompute, jacobian=jacobian)
        return self.method.correct(prediction, self.measurement).to(x.dtype)

    def products(self, t: Tensor) -> int | Tensor:
        """Those of the score and of the method."""
        return super().products(t) + self.method.products
