"""The adaptive integrator compared with solutions in closed form."""

import math

import pytest
import torch

from scoresde.models import GaussianScore
from scoresde.sde import VE, VP, integrate
from scoresde.sde.tableau import PAIRS

DOUBLE = {"dtype": torch.float64}


def rotation(rates):
    """y′ = ω_i J y, whose solutions are rotations, with a rate for each sample."""

    def field(t, y, index):
        w = rates[index, None]
        return torch.cat([-w * y[:, 1:], w * y[:, :1]], 1)

    return field


@pytest.fixture(params=list(PAIRS))
def tableau(request):
    """Each embedded pair."""
    return PAIRS[request.param]


def fixed_steps(tableau, field, y, t0, t1, steps):
    """The solution after N equal steps, and the estimated error of the first one."""
    h, first = (t1 - t0) / steps, None
    for t in (t0 + h * i for i in range(steps)):
        k, end = [field(t, y)], y
        for c, row in zip(tableau.c, tableau.a, strict=True):
            end = y + h * sum(w * slope for w, slope in zip(row, k, strict=True))
            k.append(field(t + c * h, end))
        if first is None:
            fine, coarse = (
                h * sum(w * slope for w, slope in zip(e, k, strict=False)).norm()
                for e in (tableau.e, tableau.e_coarse or tableau.e)
            )
            first = fine**2 / torch.hypot(fine, 0.1 * coarse) if tableau.e_coarse else fine
        y = end
    return y, first


@pytest.mark.parametrize(
    "name, order, steps", [("bosh3", 3, 32), ("dopri5", 5, 32), ("dop853", 8, 4)]
)
def test_pairs_have_their_orders(name, order, steps):
    """Halving a step on y′ = cos(t) J y divides the error by 2^p, and the estimate accordingly.

    The power of the estimate is the one that the controller assumes, `tableau.order`, which is the
    order of the companion plus one.
    """
    tableau, start = PAIRS[name], torch.tensor([1.0, 0.0], **DOUBLE)
    exact = torch.tensor([math.cos(math.sin(2.0)), math.sin(math.sin(2.0))], **DOUBLE)

    def field(t, y):
        return math.cos(t) * torch.stack([-y[1], y[0]])

    (rough, long), (good, short) = (
        fixed_steps(tableau, field, start, 0.0, 2.0, n) for n in (steps, 2 * steps)
    )
    assert abs(torch.log2((rough - exact).norm() / (good - exact).norm()).item() - order) < 0.35
    assert abs(torch.log2(long / short).item() - tableau.order) < 0.35


def test_rows_of_the_pairs_are_consistent(tableau):
    """Weights of a stage sum to its node and those of an error to 0; each row has its length."""
    for i, (c, row) in enumerate(zip(tableau.c, tableau.a, strict=True), start=1):
        assert len(row) == i and sum(row) == pytest.approx(c, abs=1e-13)
    for i, (c, row) in enumerate(zip(tableau.frame_c, tableau.frame_a, strict=True), start=1):
        assert len(row) == len(tableau.c) + i and sum(row) == pytest.approx(c, abs=1e-13)
    for row in filter(None, (tableau.e, tableau.e_coarse)):
        assert len(row) == len(tableau.c) + 1 and sum(row) == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("sde", [VP(), VE()], ids=["vp", "ve"])
def test_error_on_the_flow_falls_with_the_tolerance(sde, tableau):
    """On the flow of a Gaussian, known in closed form, the error is at most 60 tolerances."""
    distribution = torch.tensor([0.3, -0.2], **DOUBLE), torch.tensor([0.36, 0.04], **DOUBLE)
    score = GaussianScore(sde, *distribution)
    flow, ends = sde.reverse(score, eta=0.0), (sde.T, sde.sampling_eps)
    x = sde.prior((16, 2)).sample(torch.Generator().manual_seed(0), **DOUBLE)
    exact = score.flow(x, *(torch.tensor(t, **DOUBLE) for t in ends))
    for tolerance in (1e-3, 1e-5, 1e-7):
        y = integrate(
            lambda t, y, index: flow.drift(y, t),
            x,
            *ends,
            rtol=tolerance,
            atol=tolerance,
            tableau=tableau,
        ).y
        torch.testing.assert_close(y, exact, rtol=0, atol=60 * tolerance)


def test_a_higher_order_pays_at_a_tight_tolerance():
    """Order 8 takes the fewest evaluations at 1e-9 and order 3 the most; at 1e-2 it is reversed."""
    y0, rates = torch.tensor([[1.0, 0.0]], **DOUBLE), torch.tensor([3.0], **DOUBLE)

    def cost(tableau, tolerance):
        options = {"rtol": tolerance, "atol": tolerance, "tableau": tableau}
        return integrate(rotation(rates), y0, 0.0, 1.0, **options).nfe.item()

    third, fifth, eighth = (cost(tableau, 1e-9) for tableau in PAIRS.values())
    assert eighth < fifth < third
    assert cost(PAIRS["bosh3"], 1e-2) < cost(PAIRS["dop853"], 1e-2)


@pytest.mark.parametrize("t0, t1", [(0.0, 2.0), (2.0, 0.0), (-1.0, 1.5)])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_solution_meets_the_tolerance(t0, t1, tolerance):
    """For rotations of different rates, in both directions, the error is at most 100 tolerances."""
    rates = torch.tensor([0.1, 1.0, 7.0], **DOUBLE)
    y0 = torch.tensor([[1.0, 0.0]] * 3, **DOUBLE)
    solution = integrate(rotation(rates), y0, t0, t1, rtol=tolerance, atol=tolerance)
    angle = rates * (t1 - t0)
    exact = torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(solution.y, exact, rtol=0, atol=100 * tolerance)
    # A slow sample leaves the batch early, and is not charged for the fast one.
    assert solution.nfe[0] < solution.nfe[2]


def test_error_falls_in_proportion_to_the_tolerance():
    """log error against log tolerance has the slope 1 ± 0.15, on y′ = −y² t."""
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


def test_a_sample_does_not_depend_on_its_batch(tableau):
    """Permuting and splitting the batch changes nothing, to rounding."""
    rates = torch.linspace(0.1, 20, 9, **DOUBLE)
    y0 = torch.randn(9, 2, **DOUBLE)
    whole = integrate(rotation(rates), y0, 0.0, 1.0, tableau=tableau)
    order = torch.randperm(9)
    shuffled = integrate(rotation(rates[order]), y0[order], 0.0, 1.0, tableau=tableau)
    torch.testing.assert_close(shuffled.y, whole.y[order], rtol=1e-12, atol=1e-12)
    for i in range(9):
        alone = integrate(rotation(rates[i : i + 1]), y0[i : i + 1], 0.0, 1.0, tableau=tableau)
        torch.testing.assert_close(alone.y[0], whole.y[i], rtol=1e-12, atol=1e-12)
        assert alone.nfe[0] == whole.nfe[i]


@pytest.mark.parametrize("save_at", [None, torch.tensor([0.2, 0.25, 0.9], **DOUBLE)])
def test_evaluations_are_counted(tableau, save_at):
    """nfe is the number of evaluations in which a sample took part, including those of frames."""
    rates = torch.tensor([0.1, 9.0], **DOUBLE)
    calls = torch.zeros(2, dtype=torch.int64)
    field = rotation(rates)

    def counting(t, y, index):
        calls[index] += 1
        return field(t, y, index)

    y0 = torch.randn(2, 2, **DOUBLE)
    solution = integrate(counting, y0, 0.0, 1.0, tableau=tableau, save_at=save_at)
    assert solution.nfe.tolist() == calls.tolist()


def test_arriving_with_the_last_step_is_arriving():
    rates = torch.ones(1, **DOUBLE)
    y0 = torch.randn(1, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    whole = integrate(rotation(rates), y0, 0.0, 1.0)
    steps = next(n for n in range(1, 100) if _arrives(rates, y0, n))
    exact = integrate(rotation(rates), y0, 0.0, 1.0, max_steps=steps)
    assert torch.equal(exact.y, whole.y) and exact.nfe == whole.nfe == 2 + 6 * steps


def _arrives(rates, y0, steps):
    try:
        integrate(rotation(rates), y0, 0.0, 1.0, max_steps=steps)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name, bound", [("bosh3", 1e-5), ("dopri5", 1e-5), ("dop853", 1e-7)])
def test_frames_lie_on_the_solution(name, bound):
    """Frames between steps are cubic where steps are short, and of order 7 where they are long."""
    rates = torch.tensor([1.0, 5.0], **DOUBLE)
    y0 = torch.tensor([[1.0, 0.0]] * 2, **DOUBLE)
    save_at = torch.linspace(2.0, 0.0, 9, **DOUBLE)
    frames = integrate(
        rotation(rates), y0, 2.0, 0.0, rtol=1e-8, atol=1e-8, save_at=save_at, tableau=PAIRS[name]
    ).frames
    angle = rates * (save_at[:, None] - 2.0)
    exact = torch.stack([angle.cos(), angle.sin()], 2)
    torch.testing.assert_close(frames, exact, rtol=0, atol=bound)


def test_float32_states_stay_float32():
    y = integrate(rotation(torch.ones(1)), torch.ones(1, 2), 0.0, 1.0, rtol=1e-4, atol=1e-4).y
    assert y.dtype == torch.float32
    length = math.sqrt(2)
    torch.testing.assert_close(y.norm(dim=1), torch.tensor([length]), rtol=1e-3, atol=0)


def test_a_singular_field_stops_with_the_time_and_the_sample():
    """1/(0.5 − t) diverges at t = 0.5, and no value is returned."""

    def field(t, y, index):
        return torch.where(index[:, None] == 1, 1 / (0.5 - t[:, None]) ** 2, 0 * y)

    with pytest.raises(RuntimeError, match=r"step below minimum at t=0\.(4999|5).*sample 1"):
        integrate(field, torch.zeros(2, 1, **DOUBLE), 0.0, 1.0)


def test_a_field_that_is_not_a_number_stops_at_once():
    """With NaN from the start no step is resolved, and nothing is returned."""
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
