"""Measures of restored images against closed forms, a written-out loop, and exact posteriors."""

import math

import pytest
import torch

from scoresde.evaluation.restoration import consistency, psnr, spread, ssim


def images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def test_psnr_is_that_of_its_error():
    x = images(3, 1, 4, 4)
    assert psnr(x + 0.1, x, 1.0).tolist() == pytest.approx([20.0] * 3)
    assert psnr(x + 0.1, x, 2.0).tolist() == pytest.approx([20 + 20 * math.log10(2)] * 3)
    assert psnr(x, x, 1.0).isinf().all()


@pytest.mark.parametrize("shape", [(2, 1, 13, 12), (1, 3, 8, 9)])
def test_ssim_is_the_mean_over_windows_written_out(shape):
    """Each window by two-dimensional weights and weighted moments about its mean."""
    x, y = images(*shape), images(*shape, seed=1)
    sides = [min(11, n if n % 2 else n - 1) for n in shape[2:]]
    rows, columns = (
        [math.exp(-((i - (n - 1) / 2) ** 2) / (2 * 1.5**2)) for i in range(n)] for n in sides
    )
    total = sum(rows) * sum(columns)
    for b in range(shape[0]):
        values = []
        for c in range(shape[1]):
            for top in range(shape[2] - sides[0] + 1):
                for left in range(shape[3] - sides[1] + 1):
                    pairs = [
                        (r * k / total, *(v[b, c, top + i, left + j].item() for v in (x, y)))
                        for i, r in enumerate(rows)
                        for j, k in enumerate(columns)
                    ]
                    mx, my = (sum(p[0] * p[n] for p in pairs) for n in (1, 2))
                    vx, vy = (
                        sum(p[0] * (p[n] - m) ** 2 for p in pairs) for n, m in ((1, mx), (2, my))
                    )
                    cov = sum(w * (a - mx) * (d - my) for w, a, d in pairs)
                    c1, c2 = 1e-4, 9e-4
                    values.append(
                        (2 * mx * my + c1)
                        * (2 * cov + c2)
                        / ((mx**2 + my**2 + c1) * (vx + vy + c2))
                    )
        # Rounding of E[x²] − E[x]².
        assert ssim(x, y, 1.0)[b].item() == pytest.approx(sum(values) / len(values), abs=1e-12)


def test_ssim_in_closed_form():
    """Of equal images 1, and of two constants the term of their means alone."""
    x = images(2, 1, 16, 16)
    assert ssim(x, x, 1.0).tolist() == pytest.approx([1.0, 1.0])
    a, b = torch.full((1, 1, 12, 12), 0.2), torch.full((1, 1, 12, 12), 0.6)
    wanted = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(a, b, 1.0).item() == pytest.approx(wanted, abs=1e-6)  # float32 images


def test_consistency_is_one_for_the_truth():
    residual = 0.3 * torch.randn(100, 1000, generator=torch.Generator().manual_seed(0))
    assert consistency(residual, 0.3) == pytest.approx(1, abs=0.01)  # 4 / sqrt(2 · 10⁵)
    assert consistency(torch.tensor([[0.0, -0.5]]), 0.0) == 0.5


@pytest.mark.parametrize("count", [2, 4, 9])
def test_samples_of_the_posterior_have_the_spread_of_the_posterior(count):
    """Truth and samples from one distribution around a centre that is known to both."""
    generator = torch.Generator().manual_seed(count)
    n, dim = 400, 50
    centre = 3 * torch.randn(n, 1, dim, generator=generator)
    draws = centre + torch.randn(n, count + 1, dim, generator=generator)
    found = spread(draws[:, 1:], draws[:, 0])
    assert found.gap == pytest.approx(found.gap_exact, abs=0.08)  # 20 000 squares: 1 % = 0.04 dB
    assert found.gap_exact == pytest.approx(10 * math.log10(2 / (1 + 1 / count)))
    assert found.ratio == pytest.approx(1, abs=0.05)
    assert found.rank_distance < 0.02  # 20 000 ranks
    narrow = centre + 0.5 * (draws[:, 1:] - centre)
    found = spread(narrow, draws[:, 0])
    assert found.gap < found.gap_exact - 0.5 and found.ratio > 2
    assert found.rank_distance > 0.05 and sum(found.ranks) == pytest.approx(1)


def test_known_entries_have_no_rank():
    truth = torch.zeros(2, 3)
    samples = torch.zeros(2, 4, 3)
    assert spread(samples, truth).rank_distance == pytest.approx(0)
    samples[:, :, 0] = torch.tensor([-1.0, 1.0, 2.0, 3.0])
    assert spread(samples, truth).ranks == [0, 1, 0, 0, 0]
    samples[:, 1, 0] = 0.0  # equal to the truth: half above, half below
    assert spread(samples, truth).ranks == [0, 0.5, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: psnr(images(1, 2), images(1, 3), 1.0), "one shape"),
        (lambda: psnr(images(1, 2), images(1, 2), 0.0), "width must be finite and > 0"),
        (lambda: ssim(images(1, 9), images(1, 9), 1.0), r"must have shape \(B, C, H, W\)"),
        (lambda: spread(images(2, 1, 3), images(2, 3)), "K ≥ 2 samples"),
        (lambda: spread(images(2, 2, 3), images(2, 4)), "K ≥ 2 samples"),
    ],
)
def test_wrong_shapes_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
