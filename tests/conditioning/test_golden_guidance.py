"""Guidance and inversion steps compared with those of their authors' code.

A DDIM step with eta = 0 and a classifier, and a step of DDIM's inversion, are theirs. Their
ancestral step shifts the mean by the variance times the gradient, and the score asks for b²/a times
it: here the gradient is scaled by the quotient of the two, which is what their step lacks.
"""

import numpy as np
import pytest
import torch

from scoresde.conditioning import ClassifierGuidance, StaticThreshold
from scoresde.samplers import DDIM, Ancestral
from scoresde.sde import VP, expand
from tests.places import SHARED

PATH = SHARED / "golden" / "adm_diffusion.npz"
pytestmark = pytest.mark.skipif(not PATH.exists(), reason="needs ../shared/golden")
CHAINS = ["learned_range_250", "fixed_large_cosine", "fixed_small_sections", "predict_xstart"]


class Levels(VP):
    """A chain with given ᾱ_i."""

    def __init__(self, squares):
        super().__init__()
        self.squares = squares

    def levels(self, steps):
        return self.squares.sqrt(), (1 - self.squares).sqrt()


class Answer:
    """A network with one given answer, ẑ or D."""

    def __init__(self, sde, answer, kind):
        self.sde, self.answer, self.kind = sde, answer, kind

    def denoise(self, x, t):
        if self.kind == "predict_xstart":
            return self.answer
        return (x - expand(self.sde.sigma(t), x) * self.answer) / expand(self.sde.alpha(t), x)

    def __call__(self, x, t):
        pull = expand(self.sde.alpha(t), x) * self.denoise(x, t) - x
        return pull / expand(self.sde.sigma(t).square(), x)


class Gradient(ClassifierGuidance):
    """A classifier with a given gradient."""

    def __init__(self, score, gradient):
        super().__init__(score, lambda x, t: x, torch.zeros(len(gradient), dtype=torch.long))
        self.gradient = gradient

    def _pull(self, x, t):
        return self.gradient


def setup(chain):
    """The chain, the state with its times, and a table of the file's entries."""
    file = np.load(PATH)
    golden = {
        name.removeprefix(f"{chain}/"): torch.from_numpy(file[name])
        for name in file
        if name.startswith(f"{chain}/")
    }
    golden = {k: v.double() if v.is_floating_point() else v for k, v in golden.items()}
    squares = golden["table/alphas_cumprod"]
    sde = Levels(squares).discretize(len(squares))
    index = golden["t"].long()
    before = torch.where(index > 0, sde.times[(index - 1).clamp(min=0)], 0.0)
    answer = golden["model_output"][:, :3]
    return sde, golden, index, sde.times[index], before, Answer(sde, answer, chain)


def close(found, expected):
    """Each sample to 1e-5 of the largest entry."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_guided_step_of_ddim(chain, clip):
    """The classifier acts outside of the clipped prediction, which is not clipped again."""
    sde, golden, _, t, before, network = setup(chain)
    inside = StaticThreshold(network) if clip else network
    guided = Gradient(inside, golden["gradient"])
    x, name = golden["x_t"], "clip" if clip else "noclip"
    close(guided.denoise(x, t), golden[f"ddim_sample_guided/{name}/pred_xstart"])
    found = DDIM().transition(sde, guided, x, t, before)[0]
    close(found, golden[f"ddim_sample_guided/{name}"])


@pytest.mark.parametrize("chain", ["fixed_large_cosine", "fixed_small_sections"])
def test_a_guided_ancestral_step_is_theirs_by_a_known_factor(chain):
    """Of variances that are not learned; the last step to the data is not theirs."""
    sde, golden, index, t, before, network = setup(chain)
    x, some = golden["x_t"], index > 0
    a, b = sde.transition(before, t)
    variance = golden["p/noclip/variance"].flatten(1)[:, 0]
    factor = torch.where(some, variance * a / b.square(), 0.0)
    guided = Gradient(network, expand(factor, x) * golden["gradient"])
    mean = Ancestral().transition(sde, guided, x, t, before)[0]
    found = mean + expand(variance.sqrt(), x) * golden["step_noise"]
    close(found[some], golden["p_sample_guided/noclip"][some])


@pytest.mark.parametrize("chain", CHAINS)
def test_an_inverse_step_of_ddim(chain):
    """Up by one level, except from the last."""
    sde, golden, index, t, _, network = setup(chain)
    some = index < len(sde.times) - 1
    above = sde.times[(index + 1).clamp(max=len(sde.times) - 1)]
    found = DDIM().transition(sde, network, golden["x_t"], t, above)[0]
    close(found[some], golden["ddim_reverse_sample/noclip"][some])
