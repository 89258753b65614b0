"""Measurements that are not linear: their values, gradients and decoders."""

import pytest
import torch

from scoresde.conditioning.measurements import JPEG, Clipping, PhaseRetrieval
from scoresde.conditioning.measurements.jpeg import quantization_table


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OPERATORS = {
    "intensity": PhaseRetrieval((2, 4, 5), 2),
    "magnitude": PhaseRetrieval((1, 4, 4), 0, delta=1e-2),
    "clipping": Clipping((1, 3, 4)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_are_finite_differences(name):
    operator = OPERATORS[name]
    x = random(2, *operator.shape).requires_grad_()
    assert operator(x).shape == (2, *operator.shape_out)
    assert torch.autograd.gradcheck(operator, x)
    assert operator(x.float()).dtype == torch.float32


def test_moduli_are_those_of_the_padded_transform():
    """The sum of squares is that of the image (Parseval), and δ is under the root."""
    intensity, x = PhaseRetrieval((2, 5, 4), 3), random(2, 2, 5, 4)
    y = intensity(x)
    torch.testing.assert_close(y.sum((2, 3)), x.square().sum((2, 3)))
    padded = torch.zeros(2, 2, 11, 10, dtype=torch.float64)
    padded[:, :, 3:8, 3:7] = x
    torch.testing.assert_close(y, torch.fft.fft2(padded, norm="ortho").abs().square())
    root = PhaseRetrieval((2, 5, 4), 3, delta=0.1)(x)
    torch.testing.assert_close(root.square(), y + 0.1)
    dark = torch.zeros(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(PhaseRetrieval((2, 5, 4), 3, 0.1)(dark).sum(), dark)
    assert gradient.isfinite().all()


def test_scores_modulo_shift_rotation_and_sign():
    """Each channel of each sample has its own; what is in no way the same stays far."""
    operator = PhaseRetrieval((2, 8, 9), 4)
    target = torch.zeros(3, 2, 8, 9, dtype=torch.float64)
    target[:, :, 2:6, 3:7] = random(3, 2, 4, 4)
    other = target.roll((1, -2), (2, 3))
    other[1] = -other[1]
    other[2, 0] = other[2, 0].flip((0, 1))
    torch.testing.assert_close(operator(other), operator(target))
    torch.testing.assert_close(operator.align(other, target), target)
    assert (operator.error(other, target) < 1e-12).all()
    assert (operator.error(random(3, 2, 8, 9, seed=4), target) > 0.5).all()
    nearer = operator.error(other + 0.1 * random(3, 2, 8, 9, seed=5), target)
    assert ((nearer > 0.1) & (nearer < 0.35)).all()  # 0.21 without what leaves the image
    plain = PhaseRetrieval((1, 6, 5), 0)  # without padding shifts are circular
    x = random(1, 1, 6, 5)
    torch.testing.assert_close(plain.align(-x.flip((2, 3)).roll((4, 2), (2, 3)), x), x)
    one = operator.align(other, target[:1])
    assert one.shape == other.shape


def test_clipping_and_its_inverse():
    operator = Clipping((4,), gain=2.0)
    x = torch.tensor([[-0.8, -0.3, 0.2, 0.9]], dtype=torch.float64)
    y = operator(x)
    torch.testing.assert_close(y, torch.tensor([[-1.0, -0.6, 0.4, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(operator(operator.pinv(y)), y, rtol=0, atol=0)


JPEGS = [((1, 8, 16), 50), ((3, 16, 8), 10), ((3, 8, 8), 95)]


@pytest.mark.parametrize(("shape", "quality"), JPEGS)
def test_encoding_what_was_decoded_changes_nothing(shape, quality):
    """h h† h = h; coefficients are multiples of the steps, and errors at most half of one."""
    operator, x = JPEG(shape, quality), random(2, *shape).tanh()
    y = operator(x)
    again = operator(operator.pinv(y))
    torch.testing.assert_close(again, y, rtol=0, atol=1e-12)
    name = "brightness"
    steps = 2 / 255 * quantization_table(name, quality).repeat(shape[1] // 8, shape[2] // 8)
    multiples = y[:, 0] / steps
    torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-9)
    fine = JPEG(shape, 100)
    error = (fine.pinv(fine(x)) - x).abs().max()
    assert error < 0.05 < (operator.pinv(y) - x).abs().max() + 0.05
    assert operator(x.float()).dtype == torch.float32


def test_coefficients_are_those_of_the_standard():
    """A grey block has one coefficient, eight times its level; colours of grey images are 0."""
    grey = torch.full((1, 3, 8, 8), 100 / 127.5 - 1, dtype=torch.float64)
    y = JPEG((3, 8, 8), 100)(grey) * 127.5
    assert y[0, 0, 0, 0].item() == pytest.approx(8 * (100 - 128))
    y[0, 0, 0, 0] = 0
    assert y.abs().max() < 1e-9
    assert quantization_table("brightness", 50)[0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]
    assert quantization_table("colour", 25)[7, 7] == 198
    assert quantization_table("colour", 1).max() == 255
    assert quantization_table("brightness", 100).max() == 1


@pytest.mark.parametrize("gradient", ["straight-through", "soft"])
def test_gradients_of_rounding(gradient):
    """That of the coefficients themselves, or of the soft rounding of Shin & Song."""
    operator, hard = JPEG((1, 8, 8), 50, gradient), JPEG((1, 8, 8), 50)
    x, y = random(1, 1, 8, 8).tanh(), random(1, 1, 8, 8, seed=1)
    torch.testing.assert_close(operator(x), hard(x), rtol=0, atol=0)
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((operator(leaf) * y).sum(), leaf)
    steps = operator._steps(x)

    def surrogate(image):
        c = operator._transformed(image - operator._middle, operator._basis(x)) / steps
        whole = (hard(x) / steps).round()
        value = c if gradient == "straight-through" else whole + (c - whole) ** 3
        return (steps * value * y).sum()

    size = 1e-5
    directions = torch.eye(64, dtype=torch.float64).reshape(64, 1, 1, 8, 8)
    slopes = [(surrogate(x + size * d) - surrogate(x - size * d)) / (2 * size) for d in directions]
    torch.testing.assert_close(found.flatten(), torch.stack(slopes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PhaseRetrieval((4, 4), 1), "shape must be that of one image"),
        (lambda: PhaseRetrieval((1, 4, 4), -1), "padding must be an integer ≥ 0"),
        (lambda: PhaseRetrieval((1, 4, 4), 1, delta=0.0), "delta must be a number > 0"),
        (lambda: Clipping((4,), gain=0.0), "gain must be a number > 0"),
        (lambda: Clipping((4,), low=1.0, high=-1.0), "swapped"),
        (lambda: JPEG((1, 8, 12)), "divisible by 8, got"),
        (lambda: JPEG((2, 8, 8)), r"shape must be \(1 or 3, H, W\)"),
        (lambda: JPEG((1, 8, 8), 0), "quality must be an integer ≥ 1"),
        (lambda: JPEG((1, 8, 8), 101), "quality must be in 1 … 100, got 101"),
        (lambda: JPEG((1, 8, 8), gradient="hard"), "unknown gradient 'hard'"),
        (lambda: JPEG((1, 8, 8), low=1.0), "low must be below high"),
        (lambda: Clipping((4,))(random(2, 3)), r"samples of Clipping must have shape \(B, 4\)"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
