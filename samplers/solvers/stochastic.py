"""One-step methods of higher order for the reverse SDE, whose noise is additive."""

import math

import torch
from torch import Tensor

from scoresde.sde import SDE

from .plan import Plan, Stage, tabulate
from .solver import DenoisingSolver


class StochasticHeun(DenoisingSolver):
    """Heun's method for the reverse SDE: weak order 2, strong order 1.

        y = x + h a(x, t) + G z,   x′ = x + ½ h (a(x, t) + a(y, t′)) + G z,
        a = f x − g² s,   h = t′ − t < 0,   G² = ½ |h| (g² + g′²)

    Reference: Kloeden & Platen 1992 (section 15.1); Jolicoeur-Martineau et al. 2021,
    arXiv:2105.14080.
    """

    def steps(self, sde: SDE, times: Tensor) -> Plan:
        t, t_next, h = times[:-1], times[1:], times.diff()
        g2, g2_next = sde.g(t).square(), sde.g(t_next).square()
        one, std = torch.ones_like(t), (0.5 * h.abs() * (g2 + g2_next)).sqrt()
        return tabulate(
            times,
            Stage(one, [h], [std], t, sde.f(t), -g2),
            Stage(one, [h / 2, h / 2], [std], t_next, sde.f(t_next), -g2_next),
        )


class SRA1(DenoisingSolver):
    """Rößler's method SRA1 for the reverse SDE: strong order 1.5, weak order 2.

        y = x + ¾ h a(x, t) + (3/2) g′ J,
        x′ = x + h (⅓ a(x, t) + ⅔ a(y, t + ¾ h)) + g′ √|h| z_1 + (g − g′) J,
        a = f x − g² s,   h = t′ − t < 0,   J = ½ √|h| (z_1 + z_2/√3)

    J is the mean over the step of the Wiener process since its start.

    Reference: Rößler 2010, SIAM Journal on Numerical Analysis 48(3) (table 6.2).
    """

    def steps(self, sde: SDE, times: Tensor) -> Plan:
        t, h = times[:-1], times.diff()
        later, root = t + 3 / 4 * h, h.abs().sqrt()
        g, g_next = sde.g(t), sde.g(times[1:])
        one, half = torch.ones_like(t), root / 2
        inner = [3 / 2 * g_next * half, 3 / 2 * g_next * half / math.sqrt(3)]
        outer = [g_next * root + (g - g_next) * half, (g - g_next) * half / math.sqrt(3)]
        return tabulate(
            times,
            Stage(one, [3 / 4 * h], inner, t, sde.f(t), -g.square()),
            Stage(one, [2 / 3 * h, 1 / 3 * h], outer, later, sde.f(later), -sde.g(later).square()),
        )
