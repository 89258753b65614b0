"""The interface of all solvers, and the steps to noiseless data and from noise alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from scoresde.sde import SDE

from .plan import Plan, Stage, tabulate


class Solver(ABC):
    """A method with fixed steps for the reverse SDE or the probability flow."""

    @abstractmethod
    def plan(self, sde: SDE, times: Tensor) -> Plan:
        """The steps between the times of a grid, computed before the first evaluation.

        Args:
            sde: Process.
            times: Times of the process, float64, on the CPU, shape (N + 1,), falling; rising ones
                carry data to latents, where a method draws no noise.

        Raises:
            ValueError: The method has no such steps on this process.
        """


class DenoisingSolver(Solver):
    """A solver that goes to noiseless data, where there is no score, by `denoising_step`."""

    def plan(self, sde: SDE, times: Tensor) -> Plan:
        return up_to_data(sde, times, self.steps)

    @abstractmethod
    def steps(self, sde: SDE, times: Tensor) -> Plan:
        """The steps between times with σ > 0; see `Solver.plan`."""


def denoising_step(sde: SDE, times: Tensor) -> Plan:
    """The step to noiseless data: their posterior mean, α′ (x + σ² s)/α.

    The score does not exist on noiseless data, so that methods of any order end with this step.
    `times` are the last two, shape (2,), of which the second has σ = 0.
    """
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    ratio = alpha[1:] / alpha[:-1]
    return tabulate(times, Stage(ratio, [ratio * sigma[:-1].square()], t=times[:-1]))


def up_to_data(sde: SDE, times: Tensor, steps: Callable[[SDE, Tensor], Plan]) -> Plan:
    """Plan with `steps` between times with σ > 0, and with `denoising_step` to noiseless data."""
    if sde.sigma(times[-1]) > 0:
        return steps(sde, times)
    head = steps(sde, times[:-1]) if len(times) > 2 else Plan()
    return head + denoising_step(sde, times[-2:])


def from_noise_alone(sde: SDE, times: Tensor, steps: Callable[[SDE, Tensor], Plan]) -> Plan:
    """Plan with `steps` between times with α > 0, and with DDIM's step from a level with α = 0.

        x_s = α_s D(x_T, T) + (σ_s/σ_T) x_T

    The state at α = 0 is independent of the data: it is the noise of the state at s for any method
    that continues from there, and D is the mean of the data.

    Reference: Lin et al. 2024, arXiv:2305.08891 (section 3.3); Song, Meng & Ermon 2021,
    arXiv:2010.02502 (eq. 12).
    """
    if sde.alpha(times[0]) > 0:
        return steps(sde, times)
    alpha, sigma = sde.alpha(times[1]), sde.sigma(times[:2])
    first = Stage((sigma[1] / sigma[0]).item(), [alpha], t=times[:1], q=0.0, data=True)
    rest = steps(sde, times[1:]) if len(times) > 2 else Plan()
    return tabulate(times[:2], first) + rest
