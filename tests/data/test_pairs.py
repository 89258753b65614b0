"""Pairs: what is given of an image, and that batches depend on (step, seed) alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from scoresde.data import (
    Colorization,
    Decompression,
    Digits,
    Inpainting,
    Moons,
    Pooled,
    SuperResolution,
    Uncropping,
)

RULES = {
    "superres": SuperResolution(2),
    "bicubic": SuperResolution(2, "bicubic"),
    "residual": SuperResolution(2, residual=True),
    "decompression": Decompression(),
    "inpainting": Inpainting(),
    "uncropping": Uncropping(),
}
SPAN = (-1.0, 1.0)


@pytest.fixture(scope="module")
def digits():
    return Digits()


def colours(count=3, size=16):
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(count, 3, size, size, generator=generator) - 1


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_batches_depend_on_step_and_seed_alone(rule, digits):
    first = digits.paired(rule)
    first.batch(0, 8, 0)
    one, same = first.batch(5, 8, 1), Digits().paired(rule).batch(5, 8, 1)
    assert torch.equal(one.x, same.x) and torch.equal(one.condition, same.condition)
    assert one.condition.shape[1] == rule.channels((1, 8, 8))
    if not getattr(rule, "residual", False):
        assert torch.equal(one.x, digits.batch(5, 8, 1).x)
    assert digits.pair is None and digits.batch(5, 8, 1).condition is None


def test_a_low_resolution_is_the_pooling_of_its_image(digits):
    batch = digits.paired(SuperResolution(4)).batch(0, 8, 0)
    assert torch.equal(batch.condition, avg_pool2d(batch.x, 4))


def test_a_bicubic_low_resolution_keeps_constants_and_the_library_s_values():
    rule, x = SuperResolution(2, "bicubic"), colours(1)
    y = rule(x, torch.Generator(), SPAN)
    image = Image.fromarray(x[0, 0].numpy(), "F").resize((8, 8), Image.Resampling.BICUBIC)
    torch.testing.assert_close(y[0, 0], torch.from_numpy(np.array(image)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("span", [(-1.0, 1.0), (0.0, 1.0)])
def test_residuals_give_the_image_back_where_nothing_is_clipped(span, digits):
    rule = SuperResolution(2, residual=True)
    x = Digits(range=span).batch(0, 64, 0).x
    y = rule(x, torch.Generator(), span)
    target = rule.target(x, y, span)
    assert target.min() >= span[0] - 1e-6 and target.max() <= span[1] + 1e-6
    kept = rule.unclipped(x, y, span).abs() <= 1
    assert 0.5 < kept.double().mean() < 1
    back = rule.image(target, y, span)
    torch.testing.assert_close(back[kept], x[kept], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rule", [Inpainting(0.25, 0.5), Uncropping(0.25)], ids=["box", "side"])
def test_known_pixels_are_given_and_the_others_are_not(rule):
    x = colours(400, 8)
    y = rule(x, torch.Generator().manual_seed(0), SPAN)
    known = y[:, -1:].bool().expand_as(x)
    assert torch.equal(y[:, :-1][known], x[known]) and y[:, :-1][~known].eq(0).all()
    hidden = (~known[:, 0]).double()
    assert hidden.sum((1, 2)).min() >= 4 and hidden.sum((1, 2)).max() <= 16
    assert hidden.mean(0)[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 0.01
    assert (hidden.mean(0) - hidden.mean(0).flip(1)).abs().max() < 0.15


def test_grey_images_of_colours():
    x = colours()
    rule = Colorization()
    y = rule(x, torch.Generator(), SPAN)
    assert torch.equal(y, x.mean(1, keepdim=True)) and rule.shown(y, (3, 16, 16)).shape == x.shape


def test_jpeg_is_that_of_the_library_at_the_drawn_quality():
    x = colours(1)
    y = Decompression(30, 30)(x, torch.Generator(), SPAN)
    pixels = ((x[0].double() + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=30)
    decoded = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)
    torch.testing.assert_close(y[0], decoded / 127.5 - 1, atol=1e-6, rtol=0)


def test_a_first_stage_has_means_of_grey_levels(digits):
    low = Pooled(Digits(condition="label"), 2, condition="label")
    assert low.shape == (1, 4, 4) and low.levels == 17 and low.range == digits.range
    means = avg_pool2d(digits.train.double(), 2)
    assert (low.train.double() - means).abs().max() <= 0.5
    assert torch.equal(
        low.batch(0, 4, 0).condition, Digits(condition="label").batch(0, 4, 0).condition
    )
    assert low.digest != digits.digest


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SuperResolution(1), "condition.factor must be an integer ≥ 2, got 1"),
        (lambda: SuperResolution(2, "cubic"), "Available: average, bicubic"),
        (lambda: Digits().paired(SuperResolution(3)), r"must divide the size .*\(8, 8\), got 3"),
        (lambda: Digits().paired(Colorization()), "images of 3 channels, got 1"),
        (lambda: Moons(10, 10).paired(SuperResolution(2)), "data=moons are none"),
        (lambda: Inpainting(0.5, 0.2), "swapped"),
        (lambda: Uncropping(1.0), r"share must be in \(0, 1\), got 1.0"),
        (lambda: Decompression(30, 5), "highest must be an integer ≥ 30, got 5"),
        (lambda: Pooled(Digits(), 3), r"factor must divide \(8, 8\), got 3"),
    ],
)
def test_impossible_pairs_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
