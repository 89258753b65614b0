"""The reference implementation's samples, reproduced from the same seeds."""

import numpy as np
import pytest
import torch

from scoresde.models.exact import GaussianScore
from scoresde.samplers import (
    Ancestral,
    AnnealedLangevinStep,
    Langevin,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
)
from scoresde.sde import VE, VP, SubVP
from tests.places import SHARED

TRACES = SHARED / "golden" / "sampler_traces.npz"
pytestmark = pytest.mark.skipif(not TRACES.exists(), reason="golden sampler traces are absent")

SDES = {"vp": VP(), "ve": VE(), "subvp": SubVP()}
SHAPE = (4, 1, 8, 8)
# The reference uses the forward variance for VP and the posterior variance for VE.
PREDICTORS = {
    "vp/reverse_diffusion": ReverseDiffusion(),
    "ve/reverse_diffusion": ReverseDiffusion(),
    "vp/ancestral_sampling": Ancestral("forward"),
    "ve/ancestral_sampling": Ancestral("posterior"),
    "vp/none": None,
    "ve/none": None,
}


@pytest.fixture(scope="module")
def traces():
    with np.load(TRACES) as file:
        return dict(file)


class _ContinuousSigma(AnnealedLangevinStep):
    """The step of the reference, whose σ is that of the continuous process, not of the chain."""

    def __init__(self, sde, snr):
        super().__init__(snr)
        self.sde = sde

    def levels(self, sde, t, t_next):
        sigma = self.sde.sigma(t).tolist()
        levels = zip(super().levels(sde, t, t_next), sigma, strict=True)
        return [level._replace(sigma=value) for level, value in levels]


def corrector_of(name, sde, snr):
    """The reference's correctors, which average norms over the batch."""
    if name == "none":
        return None
    return Langevin(snr, norm="batch") if name == "langevin" else _ContinuousSigma(sde, snr)


def exact_score(sde, traces):
    dim = 64
    mean = torch.full((dim,), float(traces["mu"]))
    return GaussianScore(sde, mean, torch.full((dim,), float(traces["s0"]) ** 2))


def relative_error(x, expected):
    """The largest difference relative to the size of the samples, which reach 50 for VE."""
    return (x - expected).abs().max() / expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("corrector", ["none", "langevin", "ald"])
@pytest.mark.parametrize("key", PREDICTORS)
@pytest.mark.parametrize("denoise", [True, False])
def test_chains_reproduce_the_reference(traces, key, corrector, denoise):
    """Chain level i is at its time in linspace(eps, T, N), with the corrector first.

    The tolerance 1e-4 leaves room for float32 arithmetic in another order; a wrong formula is off
    by 1e-2.
    """
    if key.endswith("none") and corrector == "none":
        pytest.skip("neither a predictor nor a corrector")
    if key.endswith("none") and denoise:
        pytest.skip("the reference's empty predictor loses the corrector's mean")
    name = key.split("/")[0]
    chain = SDES[name].discretize(int(traces["N"]))
    sampler = PredictorCorrector(
        PREDICTORS[key],
        corrector_of(corrector, SDES[name], float(traces["snr"])),
        steps=int(traces["N"]),
        denoise=denoise,
    )
    torch.manual_seed(int(traces["seed"]))
    # The score is that of the continuous process, as in the reference.
    samples = sampler(chain, exact_score(SDES[name], traces), SHAPE)
    expected = torch.from_numpy(traces[f"{key}/{corrector}/{'mean' if denoise else 'sample'}"])
    assert relative_error(samples.x, expected) < 1e-4


@pytest.mark.parametrize("denoise", [True, False])
def test_sub_vp_agrees_with_the_reference_without_a_chain(traces, denoise):
    """The reference has no sub-VP chain and oversteps by 1/N, so that samples agree to 3e-2."""
    n = int(traces["N"])
    sampler = PredictorCorrector(ReverseDiffusion(), steps=n, denoise=denoise)
    torch.manual_seed(int(traces["seed"]))
    samples = sampler(SubVP().discretize(n), exact_score(SubVP(), traces), SHAPE)
    name = "mean" if denoise else "sample"
    expected = torch.from_numpy(traces[f"subvp/reverse_diffusion/none/{name}"])
    assert relative_error(samples.x, expected) < 3e-2


@pytest.mark.parametrize("method, tolerance", [("RK45", 1e-4), ("dopri5", 1e-3), ("DOP853", 5e-3)])
@pytest.mark.parametrize("name", SDES)
def test_probability_flow_reproduces_the_reference(traces, name, method, tolerance):
    """The same latent ends at the same sample, and near the exact flow.

    The reference uses RK45, so that this method agrees to rounding; the others take other steps at
    rtol = 1e-5, and DOP853 takes the fewest.
    """
    sde, score = SDES[name], exact_score(SDES[name], traces)
    latent = torch.from_numpy(traces[f"{name}/ode/latent"])
    expected = torch.from_numpy(traces[f"{name}/ode/sample"])
    sampler = ProbabilityFlowODE(rtol=1e-5, atol=1e-5, method=method)
    samples = sampler(sde, score, SHAPE, x_init=latent)
    assert relative_error(samples.x, expected) < tolerance
    ends = torch.tensor([sde.T, sde.sampling_eps], dtype=torch.float64)
    assert relative_error(samples.x, score.flow(latent.double(), *ends)) < tolerance
