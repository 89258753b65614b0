"""Guided scores in every sampler: each sample by its own condition, as if it were alone."""

import pytest
import torch

from scoresde.conditioning import ClassifierFree, Interval, LossGuidance, StaticThreshold
from scoresde.models import MLP, ScoreModel
from scoresde.sde import VP
from scoresde.sde.precision import module_of
from tests.test_conditions import LABELS, SAMPLERS, mixture, sampled


def guided(rows):
    """Classifier-free guidance in an interval, with a loss and a threshold outside of it."""
    rows = torch.tensor(list(rows))
    scales = torch.linspace(0.5, 3.0, 6)[rows]
    score = Interval(ClassifierFree(mixture(VP()), LABELS[rows], scales), 0.05, 5.0)
    return StaticThreshold(
        LossGuidance(score, lambda x: x.square().sum(1), 0.1 * scales), (-3.0, 3.0)
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_guided_batch_is_its_samples_alone(name):
    """To 1e-9, or within the resolution of an adaptive step's choice."""
    whole = sampled(SAMPLERS[name], VP(), guided(range(6)), range(6))
    assert whole.nfe > 0 and whole.products > 0
    for i in (0, 3, 5):
        one = sampled(SAMPLERS[name], VP(), guided([i]), [i])
        torch.testing.assert_close(whole.x[i : i + 1], one.x, rtol=1e-9, atol=1e-9)


def test_the_network_inside_is_found():
    """What asks for the network, as the warning of train() does, looks into guided scores."""
    model = ScoreModel(MLP((2,), 8, 1, classes=3), VP())
    score = StaticThreshold(ClassifierFree(model, torch.tensor([0]), 2.0))
    assert module_of(score) is model
