"""Warnings: each appears where it is due, once, and nowhere else."""

import math
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from scoresde.data import Mixture
from scoresde.evaluation import Cells, elbo, log_likelihood, quantized_likelihood, variational_bound
from scoresde.experiments.cautions import caution_data
from scoresde.models import GaussianScore, ScoreModel
from scoresde.samplers import DDIM, PredictorCorrector, ProbabilityFlowODE, draw
from scoresde.sde import EDM, VE, VP, CosineSchedule, SubVP
from scoresde.sde.cautions import COST, caution_training, caution_width, prior_cost, silent

DEFAULTS = {
    "vp": VP(),
    "vp_cosine": VP(schedule=CosineSchedule()),
    "subvp": SubVP(),
    "ve": VE(),
    "edm": EDM(),
    "ddpm": VP().discretize(1000),
    "ncsn": VE().discretize(232),
}
DATA = {
    "mixture": Mixture(n=500, n_test=1).train,
    "point": torch.ones(1, 2),
    "images": torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    "white": torch.ones(3, 1, 8, 8),
    "symmetric": 2 * torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 1,
}
LOOSE = {"rtol": 0.1, "atol": 0.1}


class Net(nn.Module):
    """F = 0 x, behind layers that may depend on the mode."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x, c_noise):
        return 0 * self.layers(x)


class OwnDropout(nn.Module):
    """A layer that calls F.dropout itself."""

    def __init__(self, rate):
        super().__init__()
        self.dropout = rate

    def forward(self, x):
        return nn.functional.dropout(x, self.dropout, self.training)


def gaussian(sde, size=1.0):
    return GaussianScore(sde, torch.zeros(2), torch.full((2,), size**2))


def model_of(*layers):
    return ScoreModel(Net(nn.Linear(2, 2), *layers), VP())


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", DEFAULTS)
def test_no_default_is_too_narrow(name, data):
    """For every published process, with data of its size, the cost is below 2 % of the limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caution_width(DEFAULTS[name], DATA[data])
    assert prior_cost(DEFAULTS[name], DATA[data]) < COST / 50


@pytest.mark.parametrize("mean", [0.0, 0.7])
@pytest.mark.parametrize("sigma_max", [0.3, 1.0, 4.0])
def test_the_cost_is_what_the_likelihood_loses(sigma_max, mean):
    """For Gaussian data all is known: the mean log-likelihood is −entropy minus the cost."""
    sde, generator = VE(0.01, sigma_max), torch.Generator().manual_seed(0)
    x = mean + 0.9 * torch.randn(400, 2, generator=generator, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0, correction=0) * 0.9 + mean
    score = GaussianScore(sde, torch.full((2,), mean), torch.full((2,), 0.81))
    with silent():
        found = log_likelihood(sde, score, x, rtol=1e-4, atol=1e-4, eps=1e-3).log_prob.mean()
    best = -math.log(2 * math.pi * math.e * (0.81 + 0.01**2))
    assert (best - found).item() / 2 == pytest.approx(prior_cost(sde, x), rel=0.05, abs=2e-3)


def test_it_is_said_well_before_a_tenth_of_a_nat():
    """For priors from far too narrow to wide, the warning appears where the cost is > 0.02."""
    x = DATA["mixture"]
    for sigma_max in (0.3, 1.0, 2.0, 5.0, 20.0):
        sde = VE(0.01, sigma_max)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            caution_width(sde, x)
        assert len(seen) == (prior_cost(sde, x) > 0.02)
    assert prior_cost(VE(0.01, 2.0), x) < 0.02 < prior_cost(VE(0.01, 1.0), x)
    assert prior_cost(VP(beta_max=1.0), 0.5 + x) > 0.02  # for any process
    with pytest.warns(UserWarning, match="nats per dimension .*; scale the data down$"):
        caution_width(VP(beta_max=1.0), 0.5 + x)


@pytest.mark.parametrize(
    "call",
    [
        lambda sde, x, k: log_likelihood(sde, gaussian(sde), x, batch_size=3, **LOOSE),
        lambda sde, x, k: quantized_likelihood(sde, gaussian(sde), k, Cells(4), samples=3, **LOOSE),
        lambda sde, x, k: elbo(sde, gaussian(sde), k, Cells(4), terms=2),
        lambda sde, x, k: variational_bound(sde, gaussian(sde), k, Cells(4), steps=3),
    ],
)
def test_likelihoods_of_wide_data_say_so_once(call):
    sde, x = VE(0.01, 0.3), 0.9 * torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    k = torch.randint(0, 4, (10, 2), generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"nats per dimension.*use sde\.sigma_max=\d+") as seen:
        call(sde, x, k)
    assert len(seen) == 1 and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(VE(), x, k)


def test_a_run_names_its_data_in_one_line(capsys):
    data = Mixture(n=2000, n_test=1)
    caution_data(VE(0.01, 0.3), data)
    said = capsys.readouterr().err
    assert said.startswith(
        "warning: the data are wide for the prior: at T they still have size 0.9"
    )
    assert said.count("\n") == 1 and "sde.sigma_max=" in said
    caution_data(VE(0.01, 0.3).discretize(20), data)
    assert "sde.base.sigma_max=" in capsys.readouterr().err
    caution_data(VE(), data)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "layer, what",
    [
        (nn.Dropout(0.3), r"dropout \(p=0\.3\) \(net\.layers\.1\)"),
        (nn.AlphaDropout(0.1), r"dropout \(p=0\.1\)"),
        (nn.BatchNorm1d(2), "batch normalization"),
        (nn.RReLU(), "random slopes"),
        (OwnDropout(0.2), r"dropout \(p=0\.2\)"),
        (nn.TransformerEncoderLayer(2, 1, 4), r"dropout \(p=0\.1\)"),
    ],
)
def test_a_network_in_train_mode_is_named(layer, what):
    model = model_of(layer)
    with pytest.warns(UserWarning, match=f"train\\(\\) mode with ({what}).*model.eval") as seen:
        caution_training(model)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caution_training(model.eval())


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.0), nn.LayerNorm(2), nn.InstanceNorm1d(2), nn.Identity(), OwnDropout(0.0)],
)
def test_a_network_that_knows_no_mode_is_not(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caution_training(model_of(layer))
        caution_training(gaussian(VP()))


@pytest.mark.parametrize(
    "call",
    [
        lambda score: PredictorCorrector(DDIM(), steps=2)(VP(), score, (3, 2)),
        lambda score: ProbabilityFlowODE(0.1, 0.1).encode(VP(), score, torch.ones(3, 2)),
        lambda score: draw(
            PredictorCorrector(DDIM(), steps=2), VP(), score, (7, 2), 3, generator=torch.Generator()
        ),
        lambda score: log_likelihood(VP(), score, torch.ones(4, 2), batch_size=2, **LOOSE),
        lambda score: quantized_likelihood(
            VP(), score, torch.ones(2, 2, dtype=torch.long), Cells(4), samples=2, **LOOSE
        ),
        lambda score: elbo(VP(), score, torch.ones(2, 2, dtype=torch.long), Cells(4), terms=2),
    ],
)
def test_samplers_and_likelihoods_name_it_once(call):
    model = model_of(nn.Dropout(0.5))
    for score in (model, model.score, partial(model)):
        with pytest.warns(UserWarning, match="call model.eval") as seen:
            call(score)
        assert len(seen) == 1 and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(model.eval())
