"""What all solvers with fixed steps share, and the steps next to data and to noise alone."""

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


def denoising_step(sde: SDE, times: Tensor) -> Plan:
    """The step to noiseless data: their posterior mean, α′ (x + σ² s)/α.

    The score does not exist on noiseless data, so methods of any order end a chain like this.

    Args:
        sde: Process.
        times: Last two times, shape (2,), of which the second has σ = 0.
    """
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    ratio = alpha[1:] / alpha[:-1]
    return tabulate(times, Stage(ratio, [ratio * sigma[:-1].square()], t=times[:-1]))


def up_to_data(sde: SDE, times: Tensor, steps: Callable[[SDE, Tensor], Plan]) -> Plan:
    """Plan with `steps` as far as there is noise, and with `denoising_step` from there.

    Args:
        sde: Process.
        times: Times of the process, shape (N + 1,).
        steps: Plan between times that all have σ > 0.
    """
    if sde.sigma(times[-1]) > 0:
        return steps(sde, times)
    head = steps(sde, times[:-1]) if len(times) > 2 else Plan()
    return head + denoising_step(sde, times[-2:])


def from_noise_alone(sde: SDE, times: Tensor, steps: Callable[[SDE, Tensor], Plan]) -> Plan:
    """Plan with `steps`, except for a first step from a level with α = 0, where there is one.

        x_s = α_s D(x_T, T) + (σ_s/σ_T) x_T

    The state at α = 0 is independent of the data: it is the noise that the state at s needs,
    whatever method continues from there, and D is the mean of the data. It is the step of DDIM.

    Args:
        sde: Process.
        times: Times of the process, shape (N + 1,).
        steps: Plan between times that all have α > 0.

    Reference: Lin et al. 2024, arXiv:2305.08891 (section 3.3); Song, Meng & Ermon 2021,
    arXiv:2010.02502 (eq. 12).
    """
    if sde.alpha(times[0]) > 0:
        return steps(sde, times)
    alpha, sigma = sde.alpha(times[1]), sde.sigma(times[:2])
    first = Stage((sigma[1] / sigma[0]).item(), [alpha], t=times[:1], q=0.0, data=True)
    rest = steps(sde, times[1:]) if len(times) > 2 else Plan()
    return tabulate(times[:2], first) + rest
