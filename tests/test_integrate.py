"""The adaptive integrator against solutions in closed form."""

import math

import pytest
import torch

from sde import integrate

DOUBLE = {"dtype": torch.float64}


def rotation(rates):
    """y′ = ω_i J y, whose solutions are rotations, with a rate for each sample."""

    def field(t, y, index):
        w = rates[index, None]
        return torch.cat([-w * y[:, 1:], w * y[:, :1]], 1)

    return field


@pytest.mark.parametrize("t0, t1", [(0.0, 2.0), (2.0, 0.0), (-1.0, 1.5)])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_solution_meets_the_tolerance(t0, t1, tolerance):
    """Rotations of different rates, forwards and backwards: error at most 100 tolerances."""
    rates = torch.tensor([0.1, 1.0, 7.0], **DOUBLE)
    y0 = torch.tensor([[1.0, 0.0]] * 3, **DOUBLE)
    solution = integrate(rotation(rates), y0, t0, t1, rtol=tolerance, atol=tolerance)
    angle = rates * (t1 - t0)
    exact = torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(solution.y, exact, rtol=0, atol=100 * tolerance)
    # A slow sample leaves the batch early, and is not charged for the fast one.
    assert solution.nfe[0] < solution.nfe[2]


def test_error_falls_in_proportion_to_the_tolerance():
    """Slope 1 ± 0.15 of log error against log tolerance, on y′ = −y² t."""
    y0 = torch.tensor([[1.0], [0.5]], **DOUBLE)
    exact = 1 / (1 / y0 + 0.5 * 3.0**2)
    tolerances = [10.0**-k for k in range(4, 11)]
    errors = []
    for tolerance in tolerances:
        y = integrate(
            lambda t, y, index: -y.square() * t[:, None], y0, 0.0, 3.0, rtol=tolerance, atol=1e-14
        ).y
        errors.append((y - exact).abs().max().item())
    x, y = torch.tensor(tolerances, **DOUBLE).log(), torch.tensor(errors, **DOUBLE).log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert abs(slope.item() - 1) < 0.15


def test_a_sample_does_not_depend_on_its_batch():
    """Permuting and splitting the batch changes nothing, to rounding."""
    rates = torch.linspace(0.1, 20, 9, **DOUBLE)
    y0 = torch.randn(9, 2, **DOUBLE)
    whole = integrate(rotation(rates), y0, 0.0, 1.0)
    order = torch.randperm(9)
    shuffled = integrate(rotation(rates[order]), y0[order], 0.0, 1.0)
    torch.testing.assert_close(shuffled.y, whole.y[order], rtol=1e-12, atol=1e-12)
    for i in range(9):
        alone = integrate(rotation(rates[i : i + 1]), y0[i : i + 1], 0.0, 1.0)
        torch.testing.assert_close(alone.y[0], whole.y[i], rtol=1e-12, atol=1e-12)
        assert alone.nfe[0] == whole.nfe[i]


def test_evaluations_are_counted():
    """nfe is the number of evaluations in which a sample took part."""
    rates = torch.tensor([0.1, 9.0], **DOUBLE)
    calls = torch.zeros(2, dtype=torch.int64)
    field = rotation(rates)

    def counting(t, y, index):
        calls[index] += 1
        return field(t, y, index)

    solution = integrate(counting, torch.randn(2, 2, **DOUBLE), 0.0, 1.0)
    assert solution.nfe.tolist() == calls.tolist()


def test_frames_lie_on_the_solution():
    """Hermite frames between steps are third-order accurate: far finer than a picture needs."""
    rates = torch.tensor([1.0, 5.0], **DOUBLE)
    y0 = torch.tensor([[1.0, 0.0]] * 2, **DOUBLE)
    save_at = torch.linspace(2.0, 0.0, 9, **DOUBLE)
    frames = integrate(rotation(rates), y0, 2.0, 0.0, rtol=1e-8, atol=1e-8, save_at=save_at).frames
    angle = rates * (save_at[:, None] - 2.0)
    exact = torch.stack([angle.cos(), angle.sin()], 2)
    torch.testing.assert_close(frames, exact, rtol=0, atol=1e-4)


def test_float32_states_stay_float32():
    y = integrate(rotation(torch.ones(1)), torch.ones(1, 2), 0.0, 1.0, rtol=1e-4, atol=1e-4).y
    assert y.dtype == torch.float32
    length = math.sqrt(2)
    torch.testing.assert_close(y.norm(dim=1), torch.tensor([length]), rtol=1e-3, atol=0)


def test_a_singular_field_stops_with_the_time_and_the_sample():
    """1/(0.5 − t) diverges at t = 0.5: no value is returned."""

    def field(t, y, index):
        return torch.where(index[:, None] == 1, 1 / (0.5 - t[:, None]) ** 2, 0 * y)

    with pytest.raises(RuntimeError, match=r"step below minimum at t=0\.(4999|5).*sample 1"):
        integrate(field, torch.zeros(2, 1, **DOUBLE), 0.0, 1.0)


def test_a_field_that_is_not_a_number_stops_at_once():
    """NaN from the start: no step is resolved, and nothing is returned."""
    calls = []

    def field(t, y, index):
        calls.append(1)
        return y * math.nan

    with pytest.raises(RuntimeError, match=r"step below minimum at t=0, sample 0"):
        integrate(field, torch.ones(2, 1, **DOUBLE), 0.0, 1.0)
    assert len(calls) < 10


def test_wrong_input_is_refused():
    field = rotation(torch.ones(1))
    with pytest.raises(ValueError, match="rtol and atol must be > 0, got 0"):
        integrate(field, torch.ones(1, 2), 0.0, 1.0, rtol=0)
    with pytest.raises(ValueError, match=r"y0 must have shape \(B, D\), got \(1, 2, 3\)"):
        integrate(field, torch.ones(1, 2, 3), 0.0, 1.0)
    with pytest.raises(TypeError, match="y0 must be floating point"):
        integrate(field, torch.ones(1, 2, dtype=torch.int64), 0.0, 1.0)
    with pytest.raises(RuntimeError, match="3 steps did not reach t=1; sample 0 is at t="):
        integrate(rotation(torch.tensor([500.0])), torch.ones(1, 2), 0.0, 1.0, max_steps=3)
