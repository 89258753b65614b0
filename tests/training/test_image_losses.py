"""Losses with images as conditions: holes, and noise on the condition."""

import pytest
import torch
from torch import nn

from scoresde.conditioning import DDNMProjection, KnownPixels, Measurement, PosteriorScore
from scoresde.conditioning.measurements import AveragePooling
from scoresde.data import Batch, Inpainting
from scoresde.models import GaussianScore, ScoreModel, UNet
from scoresde.samplers import DDIM, PredictorCorrector
from scoresde.sde import EDM, VE, VP
from scoresde.training import (
    ConditionDropout,
    DataPrediction,
    DenoisingScoreMatching,
    HoleLoss,
    NoisyCondition,
)
from scoresde.training.objective import Plain

SMALL = {"nf": 4, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}


class Watched(nn.Module):
    """A model that keeps what it is shown."""

    def __init__(self, wrong=0.0):
        super().__init__()
        self.wrong = wrong

    def forward(self, x, t, condition=None, *, predict="score"):
        self.seen = x, t, condition
        return torch.full_like(x, self.wrong)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def hidden(count=6):
    x = 2 * torch.rand(count, 1, 8, 8, generator=generator()) - 1
    return Batch(x, Inpainting()(x, generator(1), (-1.0, 1.0)))


@pytest.mark.parametrize("sde", [VP(), VE(), EDM()], ids=lambda sde: type(sde).__name__)
def test_known_pixels_have_neither_noise_nor_error(sde):
    batch, model = hidden(), Watched(7.0)
    known = batch.condition[:, -1:].bool()
    seen = []

    def errors(each, one, source):
        t = torch.full((len(one.x),), 0.4 * sde.T, dtype=torch.float64)
        x = sde.perturb(one.x, t, torch.randn(one.x.shape, generator=source))
        seen.append(each(x, t, one.condition, predict="denoise") - one.x)
        return seen[0].square().mean()

    HoleLoss(Plain(errors), sde)(model, batch, generator())
    assert seen[0][known].eq(0).all() and torch.equal(seen[0][~known], (7.0 - batch.x)[~known])
    x, t, _ = model.seen
    mean = sde.alpha(t).float().reshape(-1, 1, 1, 1) * batch.x
    torch.testing.assert_close(x[known], mean[known])


@pytest.mark.parametrize("kind", [DenoisingScoreMatching, DataPrediction])
def test_every_loss_has_a_hole(kind):
    """A hole of all pixels is the loss itself; one of none is no loss at all."""
    sde, x = VP(), hidden().x
    torch.manual_seed(0)
    model = ScoreModel(UNet((1, 8, 8), **SMALL, condition_channels=2), sde, "edm")
    loss = kind(sde)
    whole, none = (torch.cat([x, torch.full_like(x, known)], 1) for known in (0.0, 1.0))
    values = [each(model, Batch(x, whole), generator()) for each in (loss, HoleLoss(loss, sde))]
    torch.testing.assert_close(*values)
    assert HoleLoss(loss, sde)(model, Batch(x, none), generator()) < 1e-9


def test_a_condition_has_noise_of_its_own_level_which_is_told():
    sde, model = VP(), Watched()
    x, y = torch.zeros(4000, 1, 4, 4), torch.full((4000, 1, 2, 2), 0.5)
    seen = []
    loss = NoisyCondition(Plain(lambda m, b, g: seen.append(b) or torch.zeros(())), sde, [0.2, 0.6])
    loss(model, Batch(x, y), generator())
    told = seen[0].condition
    levels = (4 * told["level"].double()).exp()
    assert 0.2 <= levels.min() < 0.21 and 0.59 < levels.max() <= 0.6001
    assert levels.mean().item() == pytest.approx(0.4, abs=0.01)
    alpha = (1 + levels.square()).rsqrt()[:, None, None, None]
    noise = (told["image"] / alpha - 0.5) / levels[:, None, None, None]
    assert noise.mean().abs() < 0.03 and noise.std().item() == pytest.approx(1, abs=0.02)


def test_dropout_within_takes_image_and_level_away_together():
    sde = VP()
    torch.manual_seed(0)
    net = UNet((1, 4, 4), **SMALL, condition_channels=1, condition_noise=True)
    model, seen = ScoreModel(net, sde), []
    inside = ConditionDropout(Plain(lambda m, b, g: seen.append(b) or torch.zeros(())), 0.5)
    loss = NoisyCondition(inside, sde, [0.2, 0.6])
    loss.check(model)
    loss(model, Batch(torch.zeros(50, 1, 4, 4), torch.ones(50, 1, 2, 2)), generator())
    absent = seen[0].condition["level"] == 0
    assert 10 < absent.sum() < 40
    assert torch.equal(absent, seen[0].condition["image"].eq(0).flatten(1).all(1))


@pytest.mark.parametrize("levels", [[0.0, 1.0], [0.5, 0.2], [0.1, 1e9], [0.1]])
def test_impossible_levels_are_refused(levels):
    with pytest.raises(ValueError, match="levels must be"):
        NoisyCondition(DenoisingScoreMatching(VP()), VP(), levels)


@pytest.mark.parametrize("sde", [VP(), VE(), EDM()], ids=lambda sde: type(sde).__name__)
def test_known_pixels_and_measurements_hold_at_the_end(sde):
    """Of independent pixels the unknown ones have the distribution that they had."""
    score = GaussianScore(sde, torch.zeros(16, dtype=torch.float64), torch.eye(16).double())
    flat = lambda x, t: score(x.flatten(1), t).reshape(x.shape)  # noqa: E731
    shape, last = (64, 1, 4, 4), torch.tensor(sde.sampling_eps, dtype=torch.float64)

    def sampled(guided):
        """Samples whose last noise is removed by D_y, which is what is known of them."""
        sampler = PredictorCorrector(DDIM(), steps=20)
        x = sampler(sde, guided, shape, generator=generator(), dtype=torch.float64).x
        return guided.denoise(x, last)

    known = torch.zeros(1, *shape[1:], dtype=torch.bool)
    known[..., :2] = True
    values = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    samples = sampled(KnownPixels(flat, known, values, sde))
    assert torch.equal(samples[known.expand_as(samples)], values[known].repeat(64))
    free = samples[~known.expand_as(samples)]
    assert abs(free.mean()) < 0.1 and abs(free.std() - 1) < 0.2  # 20 steps
    operator = AveragePooling((1, 4, 4), 2)
    y = torch.tensor([[[[0.5, -0.5], [0.2, 0.9]]]], dtype=torch.float64)
    samples = sampled(PosteriorScore(flat, Measurement(operator, y), DDNMProjection(), sde))
    torch.testing.assert_close(operator(samples), y.expand(64, -1, -1, -1))
