"""Conditions that are left out in training: how often, in which rows, and when nothing changes."""

import pytest
import torch
from torch import nn

from scoresde.data import Batch
from scoresde.models import MLP, ScoreModel
from scoresde.sde import VP
from scoresde.training import ConditionDropout, DenoisingScoreMatching
from scoresde.training.objective import Plain


class Seen(nn.Module):
    """A model whose conditions are pairs of a label and a number."""

    def null_condition(self, condition):
        return {"label": torch.full_like(condition["label"], 9), "level": 0 * condition["level"]}


class Wrapped(nn.Module):
    """What DistributedDataParallel is to a network: its attributes are hidden."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *arguments, **named):
        return self.module(*arguments, **named)


def model(**settings):
    torch.manual_seed(0)
    net = MLP((2,), width=8, depth=1, classes=3)
    nn.init.normal_(net.leave.weight)
    return ScoreModel(net, VP(), **settings)


def batch(count=16):
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(count, 2, generator=generator), torch.arange(count) % 3)


def test_a_share_of_the_rows_is_left_out_as_a_whole():
    seen = []
    loss = ConditionDropout(Plain(lambda m, b, g: seen.append(b) or torch.zeros(())), 0.2)
    count = 20_000
    condition = {"label": torch.arange(count) % 3, "level": torch.rand(count, 1) + 1}
    loss(Wrapped(Seen()), Batch(torch.zeros(count, 2), condition), torch.Generator().manual_seed(0))
    absent = seen[0].condition["label"] == 9
    assert torch.equal(absent, seen[0].condition["level"][:, 0] == 0)
    assert torch.equal(seen[0].condition["label"][~absent], condition["label"][~absent])
    # The standard deviation of the share is 0.0028.
    assert absent.double().mean().item() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("wrap", [lambda m: m, Wrapped], ids=["bare", "wrapped"])
def test_without_dropout_it_is_the_loss_bit_for_bit(wrap):
    loss = DenoisingScoreMatching(VP())
    generators = [torch.Generator().manual_seed(2) for _ in range(2)]
    values = [
        each(wrap(model()), batch(), generator)
        for each, generator in zip((loss, ConditionDropout(loss, 0)), generators, strict=True)
    ]
    assert torch.equal(*values)
    assert torch.equal(*(generator.get_state() for generator in generators))


def test_a_condition_left_out_is_the_null_condition():
    """With p close to 1 the loss is that of the model without labels, after the same numbers."""
    loss, one = DenoisingScoreMatching(VP()), batch()
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    left_out = ConditionDropout(loss, 1 - 1e-9)(Wrapped(model()), one, first)
    torch.rand(len(one.x), generator=second)
    assert torch.equal(
        left_out, loss(model(), Batch(one.x, torch.full_like(one.condition, 3)), second)
    )


def test_data_without_a_condition_are_left_alone():
    loss, x = DenoisingScoreMatching(VP()), batch().x
    values = [
        each(model(), x, torch.Generator().manual_seed(4))
        for each in (loss, ConditionDropout(loss))
    ]
    assert torch.equal(*values)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan"), "0.1", True])
def test_shares_outside_their_range_are_refused(share):
    with pytest.raises(ValueError, match=r"condition.dropout must be in \[0, 1\), got"):
        ConditionDropout(DenoisingScoreMatching(VP()), share)


def test_models_without_an_absence_are_refused_before_training():
    loss = DenoisingScoreMatching(VP())
    with pytest.raises(ValueError, match=r"use condition\.dropout=0"):
        ConditionDropout(loss).check(nn.Linear(2, 2))
    ConditionDropout(loss, 0).check(nn.Linear(2, 2))
    ConditionDropout(loss).check(Wrapped(model()))
