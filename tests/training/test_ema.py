"""The average of the weights: its type, its updates, and the values that it copies."""

import pytest
import torch
from torch import nn

from scoresde.models import MLP, ScoreModel
from scoresde.samplers import DDIM, PredictorCorrector
from scoresde.sde import VP
from scoresde.training import EMA

HALVES = [torch.bfloat16, torch.float16]


class Mixed(nn.Module):
    """Parameters and buffers of all types, one shared by two layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2).bfloat16()
        self.second = nn.Linear(2, 2).bfloat16()
        self.second.weight = self.first.weight
        self.wide = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        self.index = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
        self.switch = nn.Parameter(torch.zeros(2, dtype=torch.bool), requires_grad=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int32))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float16))


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
@pytest.mark.parametrize("updates", [0, 10**6])
def test_an_average_moves_as_far_as_its_decay_says(dtype, updates):
    """3000 updates towards 1 give 1 − 0.999³⁰⁰⁰ = 0.950 of the way; a warm-up gives all of it."""
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.zeros_(model.weight)
    ema = EMA(model, 0.999)
    ema.updates = updates
    nn.init.ones_(model.weight)
    for _ in range(3000):
        ema.update(model)
    expected = 1.0 if updates == 0 else 1 - 0.999**3000
    assert ema.model.weight.item() == pytest.approx(expected, abs=1e-4)
    assert ema.model.weight.dtype == torch.promote_types(dtype, torch.float32)


def test_what_is_no_number_of_an_average_is_copied():
    model = Mixed()
    ema = EMA(model, 0.9)
    ema.updates = 1000
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(1)
        before = ema.model.first.weight.clone()
    ema.update(model)
    own = ema.model
    torch.testing.assert_close(own.first.weight, before + 0.1 * (1 - before))
    assert own.first.weight is own.second.weight
    torch.testing.assert_close(own.wide, torch.full((2,), 0.1, dtype=torch.float64))
    torch.testing.assert_close(own.phase, torch.full((2,), 0.1, dtype=torch.complex64))
    for name in ("index", "switch", "count", "seen", "mean"):
        copied = getattr(own, name)
        assert (copied == 1).all(), name
        expected = torch.float32 if name == "mean" else getattr(model, name).dtype
        assert copied.dtype == expected, name


@pytest.mark.parametrize("dtype", HALVES)
def test_a_saved_average_is_restored_bit_by_bit_and_old_ones_are_read(dtype):
    """Old averages had the model's type: their state loads, and the average continues."""
    model = ScoreModel(MLP((2,), width=8, depth=1), VP()).to(dtype)
    ema, other, old = EMA(model, 0.99), EMA(model, 0.99), EMA(model, 0.99)
    for step in range(5):
        nn.init.constant_(model.net.enter.weight, step)
        ema.update(model)
    other.load_state_dict(ema.state_dict())
    half = {name: value.to(dtype) for name, value in ema.state_dict()["model"].items()}
    old.load_state_dict({"model": half, "updates": 5})
    for average in (ema, other, old):
        average.update(model)
    for name, value in ema.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], value, rtol=0, atol=0)
        assert old.model.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(old.model.state_dict()[name], value, rtol=0.01, atol=0.01)
    assert old.updates == other.updates == 6


def test_the_average_of_a_half_network_samples_in_float32():
    model = ScoreModel(MLP((2,), width=8, depth=1), VP()).bfloat16()
    ema = EMA(model)
    samples = PredictorCorrector(DDIM(), steps=2)(VP(), ema.model, (3, 2))
    assert samples.x.dtype == torch.float32 and samples.x.isfinite().all()
    assert next(ema.model.parameters()).dtype == torch.float32
    assert next(model.parameters()).dtype == torch.bfloat16
