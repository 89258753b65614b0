"""Numbers and shapes that users pass, and the errors for those that cannot be meant."""

import numpy as np
import pytest
import torch

from scoresde.evaluation import Cells, Hutchinson, elbo, log_likelihood, quantized_likelihood
from scoresde.models import GaussianScore
from scoresde.samplers import (
    DDIM,
    AnnealedLangevin,
    ExponentialMultistep,
    Langevin,
    NoiseAdaptive,
    ParallelPicard,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    TorchSDE,
    draw,
)
from scoresde.samplers.presets import deis
from scoresde.sde import VE, VP

SDE = VP()
EXACT = GaussianScore(SDE, torch.zeros(2).double(), torch.full((2,), 0.25).double())
X = torch.full((3, 2), 0.1)
FIVE = np.int64(5)


def pc(steps=5):
    return PredictorCorrector(ReverseDiffusion(), steps=steps)


def test_integers_of_numpy_are_integers():
    """Wherever a count is expected, NumPy's 5 is 5, and 5.0 and True are still refused."""
    k = torch.zeros(3, 2, dtype=torch.long)
    assert pc(FIVE).steps == 5 and type(pc(FIVE).steps) is int
    assert Langevin(n_steps=FIVE).n_steps == 5
    assert ExponentialMultistep(np.int32(2), lower_order_final_below=FIVE).order == 2
    assert deis(np.int64(2)).order == 2
    assert type(VE().discretize(FIVE).steps) is int
    assert Hutchinson(np.int64(2)).estimates == 2
    assert elbo(SDE, EXACT, k, Cells(np.int64(4)), terms=np.int64(2)).terms.shape == (3, 2)
    scored = quantized_likelihood(SDE, EXACT, k, Cells(4), samples=np.int64(2), rtol=0.1, atol=0.1)
    assert scored.samples == 2
    for wrong in (5.0, True, np.float64(5), np.bool_(True), "5", 0):
        with pytest.raises(ValueError, match="steps must be an integer ≥ 1, got"):
            pc(wrong)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: log_likelihood(SDE, EXACT, X, batch_size=-1), "batch_size must be an integer ≥ 1"),
        (lambda: log_likelihood(SDE, EXACT, X, batch_size=0), "batch_size must be an integer ≥ 1"),
        (lambda: draw(pc(), SDE, EXACT, (3, 2), 0), "batch_size must be an integer ≥ 1, got 0"),
        (lambda: draw(pc(), SDE, EXACT, (3, 2), -2), "batch_size must be an integer ≥ 1, got -2"),
        (lambda: log_likelihood(SDE, EXACT, X[:, 0]), r"x must be \(B, \*\).*; use x\[:, None\]"),
        (lambda: log_likelihood(SDE, EXACT, X[:, :0]), r"at least one point, got shape \(3, 0\)"),
        (lambda: ProbabilityFlowODE().encode(SDE, EXACT, X[:, 0]), r"x0 must be \(B, \*\)"),
        (lambda: pc()(SDE, EXACT, (3,)), r"shape must be \(B, \*\)"),
        (lambda: log_likelihood(SDE, EXACT, X, eps=2), r"eps must be in \(0, T=1.0\), got 2: .*T"),
        (lambda: log_likelihood(SDE, EXACT, X, eps=0.0), "got 0: the score is singular at t=0"),
        (
            lambda: pc()(SDE, EXACT, (3, 2), x_init=X, dtype=torch.float64),
            "x_init has dtype torch.float32, and dtype=torch.float64 is asked for; convert it",
        ),
        (
            lambda: pc()(SDE, EXACT, (3, 2), x_init=X, device="meta"),
            "x_init has device cpu, and device=meta is asked for; convert it",
        ),
    ],
)
def test_numbers_that_cannot_be_meant_are_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize(
    "sampler",
    [
        pc(),
        AnnealedLangevin(steps=5, n_steps=1),
        ParallelPicard(DDIM(), steps=5),
        NoiseAdaptive(DDIM(), steps=5),
        TorchSDE("euler", steps=5),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_run_keeps_as_many_states_as_it_has(sampler):
    """A run of five steps has six states; a request for more is refused rather than cut."""
    assert sampler.states(SDE) == 6
    assert sampler(SDE, EXACT, (3, 2), trajectory=6).trajectory.shape == (6, 3, 2)
    with pytest.raises(ValueError, match="trajectory=7 asks for more states than the 6 that 5"):
        sampler(SDE, EXACT, (3, 2), trajectory=7)


def test_adaptive_steps_keep_any_number_of_states():
    sampler = ProbabilityFlowODE(0.1, 0.1)
    assert sampler.states(SDE) is None
    assert sampler(SDE, EXACT, (3, 2), trajectory=50).trajectory.shape == (50, 3, 2)


def test_a_type_next_to_the_same_start_is_no_contradiction():
    x = pc()(SDE, EXACT, (3, 2), x_init=X, dtype=torch.float32, device="cpu").x
    assert x.dtype == torch.float32
