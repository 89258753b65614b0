"""Bounds on the probabilities of quantized data, compared with known probabilities."""

import math

import pytest
import torch
from scipy.stats import norm as normal_distribution

from scoresde.evaluation import (
    Cells,
    Hutchinson,
    TruncatedNormal,
    Uniform,
    Variational,
    log_likelihood,
    quantized_likelihood,
)
from scoresde.evaluation.seeding import Draws
from scoresde.models import GaussianMixtureScore
from scoresde.sde import VE, VP, SubVP

DOUBLE = {"dtype": torch.float64}
SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE()}
# At these times σ is an eighth of a cell or more; sub-VP's σ is 1e-6 at its own eps.
EPS = {"vp": 1e-5, "subvp": 0.01, "ve": 1e-5}
WEIGHTS, MEANS, STDS = [0.4, 0.6], [-0.3, 0.4], [0.1, 0.2]
CELLS = Cells(256, -1.0, 1.0)


def toy(sde):
    """A mixture in one dimension, whose probability in each of 256 cells is known."""
    distributions = (
        torch.tensor(v, **DOUBLE) for v in (WEIGHTS, [[m] for m in MEANS], [[s**2] for s in STDS])
    )
    return GaussianMixtureScore(sde, *distributions)


def masses(sde, eps, cells=CELLS):
    """log P of every cell at eps, where the cells are scaled by α as the data are."""
    eps = torch.tensor(eps, **DOUBLE)
    alpha, sigma = sde.alpha(eps).item(), sde.sigma(eps).item()
    edges = alpha * (cells.low + cells.width * torch.arange(cells.levels + 1, **DOUBLE).numpy())
    parts = [
        w * normal_distribution.cdf(edges, alpha * m, math.hypot(alpha * s, sigma))
        for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)
    ]
    return torch.from_numpy(sum(part[1:] - part[:-1] for part in parts)).log()


def test_density_over_the_cells_sums_to_one():
    """exp log p by the flow, on 4 points of each cell (an integral to 1e-5), sums to 1 to 1e-3."""
    for sde in SDES.values():
        alpha = sde.alpha(torch.tensor(sde.eps, **DOUBLE)).item()
        share = (torch.arange(4, **DOUBLE) + 0.5) / 4
        k = torch.arange(256, **DOUBLE)[:, None]
        x = alpha * (CELLS.low + CELLS.width * (k + share)).reshape(-1, 1)
        log_prob = log_likelihood(sde, toy(sde), x, rtol=1e-5, atol=1e-5).log_prob
        cells = log_prob.exp().reshape(256, 4).mean(1) * alpha * CELLS.width
        assert abs(cells.sum().item() - 1) < 1e-3
        exact = masses(sde, sde.eps).exp()
        # The prior differs from p_T by the remaining mean, which is α_T times that of the data.
        torch.testing.assert_close(cells, exact, rtol=0, atol=5e-3 * exact.max().item())


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["uniform", "truncated-normal", "variational"])
@pytest.mark.parametrize("name", SDES)
def test_bounds_lie_below_and_close_their_gap(name, rule):
    """Every cell's bound is below its log P within four of its errors, and rises with K towards it.

    The solver's own error, about 1e-4, is added. 16 weighted samples leave a tenth of the gap, and
    the mean over cells rises from K = 1 to 4 to 16.
    """
    sde, exact = SDES[name], masses(SDES[name], EPS[name])
    k = torch.arange(0, 256, 2)[:, None]
    rule = Variational(_slanted) if rule == "variational" else rule
    gaps = []
    for samples in (1, 4, 16):
        result = quantized_likelihood(
            sde,
            toy(sde),
            k,
            CELLS,
            dequantization=rule,
            samples=samples,
            dtype=torch.float64,
            eps=EPS[name],
            rtol=1e-5,
            atol=1e-5,
        )
        assert result.bound and result.samples == samples
        gap = exact[k[:, 0]] - result.log_prob
        if samples > 1:
            above = gap < -4 * result.dequantization_error - 1e-3
            assert above.double().mean() <= 0.02
        gaps.append(gap)
    means = [gap.mean().item() for gap in gaps]
    spread = [gap.std().item() / math.sqrt(len(k)) for gap in gaps]
    assert means[0] > -3 * spread[0] and means[2] > -3 * spread[2] - 1e-3
    assert means[2] <= means[0] / 4 + 3 * spread[2] + 1e-3


def _slanted(k, z):
    """Points u = Φ(0.8 z + 0.2) and their density: a flow that is not uniform."""
    u = torch.special.ndtr(0.8 * z + 0.2)
    log_q = -0.5 * z.square() + 0.5 * (0.8 * z + 0.2).square() - math.log(0.8)
    return u, log_q.flatten(1).sum(1)


@pytest.mark.parametrize("rule", [Uniform(), TruncatedNormal(), Variational(_slanted)])
def test_samples_stay_in_their_cells_and_have_the_stated_density(rule):
    """E 1/q over samples is the volume of the cell to four standard errors; none lies outside."""
    k = torch.full((4000, 1), 7)
    for alpha, sigma in ((1.0, 0.002), (0.9, 0.05)):
        x, log_q = rule.draw(k, CELLS, alpha, sigma, Draws(0, range(4000)))
        centre = alpha * (-1 + CELLS.width * 7.5)
        assert ((x - centre).abs() <= alpha * CELLS.width / 2 + 1e-15).all()
        inverse = (-log_q).exp() / (alpha * CELLS.width)
        assert abs(inverse.mean() - 1) < 4 * inverse.std() / math.sqrt(4000) + 1e-12


def test_several_coordinates_multiply():
    """For nine independent coordinates log P is the sum of theirs, bits/dim the share of each."""
    sde, n = VP(), 9
    mean, std = 0.1, 0.3
    score = GaussianMixtureScore(
        sde, torch.ones(1), torch.full((1, n), mean), torch.full((1, n), std**2)
    )
    k = torch.randint(100, 160, (6, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    result = quantized_likelihood(
        sde, score, k, CELLS, samples=8, dtype=torch.float64, rtol=1e-5, atol=1e-5
    )
    low = -1 + CELLS.width * k.double().numpy()
    mass = normal_distribution.cdf(low + CELLS.width, mean, std) - normal_distribution.cdf(
        low, mean, std
    )
    exact = torch.from_numpy(mass).log().flatten(1).sum(1)
    # The prior differs from p_T by the remaining mean, α_T 0.1, in each coordinate: 0.01 in all.
    torch.testing.assert_close(result.log_prob, exact, rtol=0, atol=0.02)
    torch.testing.assert_close(result.bits_per_dim, -exact / (9 * math.log(2)), rtol=0, atol=4e-3)


def test_a_wide_density_spends_the_logarithm_of_the_levels():
    """Where the density is flat all cells are alike and cost log₂ 17 bits, whatever the range."""
    for levels, low, high in ((17, -1.0, 1.0), (256, 0.0, 1.0)):
        cells, sde = Cells(levels, low, high), VE()
        score = GaussianMixtureScore(
            sde, torch.ones(1), torch.zeros(1, 4), torch.full((1, 4), 25.0)
        )
        k = torch.zeros(2, 4, dtype=torch.long)
        result = quantized_likelihood(sde, score, k, cells, dtype=torch.float64)
        flat = math.log2(math.sqrt(2 * math.pi) * 5 / cells.width)
        assert result.bits_per_dim.tolist() == pytest.approx([flat] * 2, abs=0.05)


def test_a_result_names_what_it_is():
    """Weighted samples of a stochastic divergence give no bound, and the result says so."""
    sde, k = VP(), torch.randint(0, 256, (3, 4))
    score = GaussianMixtureScore(sde, torch.ones(1), torch.zeros(1, 4), torch.ones(1, 4))

    def result(**options):
        return quantized_likelihood(sde, score, k, CELLS, rtol=0.1, atol=0.1, **options)

    assert result(samples=2).bound
    assert result(divergence="hutchinson").bound
    assert not result(divergence="hutchinson", samples=2).bound
    assert result(divergence="hutchinson", samples=2, importance=False).bound
    summary = result(divergence=Hutchinson(2, "gaussian"), samples=2, importance=False).summary()
    assert summary["bound"] is True and summary["dequantization"] == "uniform"
    assert summary["levels"] == 256 and summary["range"] == [-1.0, 1.0]
    assert summary["divergence"] == "hutchinson" and summary["eps"] == sde.eps
    assert set(summary["likelihood_errors"]) == {"data", "probe", "dequantization", "solver"}
    assert all(value > 0 for value in summary["likelihood_errors"].values())
    points = log_likelihood(sde, score, torch.zeros(3, 4), rtol=0.1, atol=0.1)
    assert "bound" not in points.summary() and "log_likelihood" in points.summary()
    with pytest.raises(ValueError, match="a density of points has no bits/dim"):
        _ = points.bits_per_dim


def test_noise_and_probes_belong_to_samples():
    """Permuted, split or alone, samples have the same numbers, to the rounding of sums."""
    sde, k = VP(), torch.randint(0, 256, (5, 4), generator=torch.Generator().manual_seed(0))
    score = GaussianMixtureScore(sde, torch.ones(1), torch.zeros(1, 4), torch.eye(4)[None] + 0.3)
    options = {"divergence": "hutchinson", "samples": 2, "rtol": 0.01, "atol": 0.01}
    options |= {"dtype": torch.float64}
    whole = quantized_likelihood(sde, score, k, CELLS, **options)
    order = [3, 1, 4, 0, 2]
    other = quantized_likelihood(
        sde, score, k[order], CELLS, sample_ids=order, batch_size=2, **options
    )
    torch.testing.assert_close(other.log_prob, whole.log_prob[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "k, options, kind, sentence",
    [
        (torch.zeros(2, 2), {}, TypeError, "quantized data must be integers, got dtype"),
        (torch.full((2, 2), 256), {}, ValueError, r"values must be in 0 … 255, got 256 … 256"),
        (torch.zeros(0, 2, dtype=torch.int), {}, ValueError, r"must have shape \(B, \*\), got"),
        (torch.zeros(2, 2, dtype=torch.int), {"samples": 0}, ValueError, "samples must be an int"),
        (
            torch.zeros(2, 2, dtype=torch.int),
            {"dequantization": "gaussian"},
            ValueError,
            "unknown dequantization 'gaussian'. Available: uniform, truncated-normal",
        ),
    ],
)
def test_wrong_input_is_refused(k, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        quantized_likelihood(VP(), lambda x, t: -x, k, CELLS, **options)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ((1,), "levels must be an integer ≥ 2, got 1"),
        ((256, 1.0, -1.0), r"must be \(low, high\) with low < high, .*got \(1.0, -1.0\)"),
    ],
)
def test_wrong_cells_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Cells(*arguments)
