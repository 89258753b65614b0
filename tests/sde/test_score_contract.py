"""What samplers, likelihoods, bounds and losses require of the functions that they receive."""

import pytest
import torch

from scoresde.evaluation import Cells, elbo, log_likelihood, variational_bound
from scoresde.models import GaussianScore, NoiseLevelEstimator, ScoreModel
from scoresde.samplers import (
    DDIM,
    AdaptiveSDE,
    AnalyticVariance,
    Ancestral,
    AnnealedLangevin,
    EDMHeun,
    ExponentialMultistep,
    Langevin,
    NoiseAdaptive,
    ParallelPicard,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    TorchSDE,
)
from scoresde.samplers.presets import ipndm
from scoresde.sde import VE, VP, Evaluations, integrate
from scoresde.training import DenoisingScoreMatching, NoiseLevelLoss

SDE = VP()
EXACT = GaussianScore(SDE, torch.zeros(2).double(), torch.full((2,), 0.25).double())
SAMPLERS = {
    "pc": PredictorCorrector(ReverseDiffusion(), Langevin(0.16), steps=4),
    "batch norms": PredictorCorrector(None, Langevin(0.16, norm="batch"), steps=4),
    "edm": PredictorCorrector(EDMHeun(churn=2.0), steps=4),
    "ipndm": PredictorCorrector(ipndm(3), steps=4),
    "corrected": PredictorCorrector(ExponentialMultistep(2, "data", corrector=True), steps=4),
    "ald": AnnealedLangevin(steps=3, n_steps=1),
    "parallel": ParallelPicard(DDIM(), steps=4),
    "noise adaptive": NoiseAdaptive(Ancestral(), steps=4),
    "adaptive": AdaptiveSDE(0.5, 0.5),
    "ode": ProbabilityFlowODE(1e-2, 1e-2, method="bosh3"),
    "scipy": ProbabilityFlowODE(1e-2, 1e-2, method="RK23"),
    "torchsde": TorchSDE("euler", steps=4),
}


def run(sampler, score, **options):
    generator = torch.Generator().manual_seed(3)
    return sampler(SDE, score, (3, 2), generator=generator, **options)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("other", [torch.float64, torch.bfloat16], ids=["wider", "narrower"])
def test_a_state_keeps_its_type_whatever_the_score_returns(name, other):
    """A float32 state stays float32 for any type of the score, and no other number changes."""
    kinds = []

    def score(x, t):
        kinds.append(x.dtype)
        return EXACT(x, t).to(other)

    mixed = run(SAMPLERS[name], score)
    plain = run(SAMPLERS[name], lambda x, t: EXACT(x, t).to(other).float())
    assert mixed.x.dtype == torch.float32 and set(kinds) == {torch.float32}
    torch.testing.assert_close(mixed.x, plain.x, rtol=0, atol=0)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "wrong",
    [lambda s: s[:, :1], lambda s: s[0], lambda s: s.sum(), lambda s: s[None]],
    ids=["(B, 1)", "(D,)", "()", "(1, B, D)"],
)
def test_a_score_of_another_shape_is_refused(name, wrong):
    """Each of these would be broadcast to the state's shape and give wrong samples."""
    with pytest.raises(ValueError, match=r"the score must have shape \(\d+, 2\), got \("):
        run(SAMPLERS[name], lambda x, t: wrong(EXACT(x, t)))


def test_whatever_evaluates_a_score_checks_it():
    x, k = torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.long)

    def narrow(x, t):
        return EXACT(x, t)[:, :1]

    def array(x, t):
        return EXACT(x, t).detach().numpy()

    cells, loss = Cells(4), DenoisingScoreMatching(SDE)
    calls = {
        "likelihood": lambda score: log_likelihood(SDE, score, x, rtol=1e-2),
        "elbo": lambda score: elbo(SDE, score, k, cells, terms=1),
        "vlb": lambda score: variational_bound(SDE, score, k, cells, steps=3),
        "loss": lambda score: loss(score, x),
        "encode": lambda score: ProbabilityFlowODE().encode(SDE, score, x),
        "variance": lambda score: AnalyticVariance.fit(SDE, score, x),
        "reverse": lambda score: SDE.reverse(score).drift(x, torch.tensor(0.5)),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=r"the score must have shape \(3, 2\), got \(3, 1\)"):
            call(narrow)
        with pytest.raises(TypeError, match=r"tensor of shape \(3, 2\), got ndarray"):
            call(array)
        assert name  # the name appears in the traceback of a failure


def test_other_functions_of_a_state_are_checked_too():
    """Noise, constraints, fields and estimates would be broadcast as well."""
    sampler = PredictorCorrector(ReverseDiffusion(), steps=2)
    with pytest.raises(ValueError, match=r"noise must have shape \(3, 2\), got \(3, 1\)"):
        run(sampler, EXACT, noise=lambda x: torch.randn(3, 1))
    with pytest.raises(ValueError, match=r"the constraint must have shape \(3, 2\), got \(2,\)"):
        run(sampler, EXACT, constraint=lambda x, t, noise: x[0])
    kept = run(sampler, EXACT, noise=torch.randn_like, constraint=lambda x, t, noise: x.double())
    assert kept.x.dtype == torch.float32
    with pytest.raises(ValueError, match=r"the field must have shape \(3, 2\), got \(3, 1\)"):
        integrate(lambda t, y, index: y[:, :1], torch.ones(3, 2), 0.0, 1.0)
    with pytest.raises(ValueError, match=r"the estimate must have shape \(3,\), got \(3, 1\)"):
        NoiseLevelLoss(SDE)(lambda x: x[:, :1], torch.zeros(3, 2))
    estimator = NoiseLevelEstimator(SDE, (1, 4, 4), None)
    assert NoiseLevelLoss(SDE)(estimator, torch.zeros(3, 1, 4, 4)).isfinite()


def test_evaluations_are_counted_by_samples():
    score = Evaluations(EXACT)
    score(torch.zeros(3, 2), torch.tensor(0.5))
    score(torch.zeros(2, 2), torch.tensor(0.5))
    assert score.count == 5
    assert run(SAMPLERS["pc"], EXACT).nfe == 8


@pytest.mark.parametrize("sde", [SDE, VE()], ids=["vp", "ve"])
def test_samples_that_are_not_finite_are_counted_in_a_warning(sde):
    """Fixed steps carry NaN to the end, where a warning counts the samples that hold it."""

    def score(x, t):
        s = -x
        s[[1, 3]] = torch.nan
        return s

    sampler = PredictorCorrector(ReverseDiffusion(), steps=3)
    with pytest.warns(UserWarning, match="2 of 4 samples hold NaN or Inf, the first.* sample 1"):
        samples = sampler(sde, score, (4, 2))
    assert samples.x[[0, 2]].isfinite().all()


@pytest.mark.parametrize("parameterization", ["noise", "score", "data", "v", "edm"])
def test_an_output_of_a_network_that_would_be_broadcast_is_refused(parameterization):
    """It would be broadcast when data, v and edm networks are added to the state."""

    class Narrow(torch.nn.Module):
        def forward(self, x, c_noise):
            return x[:, :1]

    model = ScoreModel(Narrow(), SDE, parameterization)
    with pytest.raises(
        ValueError, match=r"network's output must have shape \(3, 2\), got \(3, 1\)"
    ):
        model(torch.zeros(3, 2), torch.tensor(0.5))
    learned = ScoreModel(torch.nn.Identity(), SDE, parameterization, learned_variance=True)
    learned.net.forward = lambda x, c_noise: x
    with pytest.raises(ValueError, match="the network's output must have shape"):
        learned.noise_and_share(torch.zeros(3, 2), torch.tensor(0.5))
