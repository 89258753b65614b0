"""Linear measurements against dense linear algebra, matrix by matrix."""

import math

import pytest
import torch

from scoresde.conditioning import Measurement
from scoresde.conditioning.measurements import (
    AveragePooling,
    BlurDownsampling,
    CircularBlur,
    ColourMixing,
    Composition,
    Downsampling,
    FourierMask,
    Hadamard,
    Mask,
    Matrix,
    RandomProjection,
    Separable,
    SeparableBlur,
    box_kernel,
    gaussian_kernel,
    motion_kernel,
    outside_box,
    random_columns,
    random_pixels,
)
from scoresde.conditioning.measurements.conjugate_gradients import conjugate_gradients
from scoresde.conditioning.measurements.gmres import gmres
from scoresde.sde import rows

GREY, COLOUR, WIDE = (1, 8, 8), (3, 8, 8), (3, 6, 10)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coins(*shape, seed=0):
    return random(*shape, seed=seed) > 0


def frequencies(height, width):
    known = coins(height, width)
    return known | known.flip(0, 1).roll((1, 1), (0, 1))


def low_rank():
    return random(5, 3, seed=1) @ random(3, 12, seed=2)


SPECTRAL = {
    "mask": Mask(coins(8, 8), GREY),
    "mask of each entry": Mask(coins(3, 6, 10)),
    "pooling": AveragePooling(GREY, 2),
    "pooling, wide": AveragePooling((3, 6, 9), 3),
    "bicubic": Downsampling(GREY, 2),
    "bicubic 4": Downsampling((3, 8, 12), 4),
    "lanczos": Downsampling(COLOUR, 4, "lanczos3"),
    "linear": Downsampling(WIDE, 2, "linear"),
    "box, odd": CircularBlur(GREY, box_kernel(3)),
    "box, even": CircularBlur(WIDE, box_kernel(4)),
    "gaussian, circular": CircularBlur((3, 7, 9), gaussian_kernel(5, 0.8)),
    "motion": CircularBlur((1, 9, 8), motion_kernel(7, seed=3)),
    "motion, colour": CircularBlur(COLOUR, motion_kernel(4)),
    "box with zeros around": SeparableBlur(GREY, box_kernel(3), border="zero"),
    "gaussian, reflect": SeparableBlur(WIDE, gaussian_kernel(5, 0.7)),
    "two axes": SeparableBlur(WIDE, box_kernel(2), gaussian_kernel(4, 1.0), "replicate"),
    "symmetric": SeparableBlur((1, 5, 8), box_kernel(5), border="symmetric"),
    "circular": SeparableBlur(COLOUR, box_kernel(4), border="circular"),
    "separable": Separable((2, 4, 5), random(3, 4), random(6, 5)),
    "separable of low rank": Separable((2, 6, 3), random(4, 2) @ random(2, 6), random(2, 3)),
    "grey": ColourMixing(COLOUR),
    "colour": ColourMixing(WIDE, [0.299, 0.587, 0.114]),
    "two mixtures": ColourMixing((3, 4, 5), random(2, 3)),
    "dependent mixtures": ColourMixing((3, 4, 5), random(4, 1) @ random(1, 3)),
    "random projection": RandomProjection(WIDE, 40, seed=1),
    "whole projection": RandomProjection((12,), 12),
    "hadamard": Hadamard(GREY, 20),
    "hadamard, colour": Hadamard((3, 4, 8), 13, seed=2),
    "hadamard of vectors": Hadamard((16,), 16),
    "fourier": FourierMask(GREY, frequencies(8, 8)),
    "fourier, odd": FourierMask((2, 5, 7), frequencies(5, 7)),
    "fourier, colour": FourierMask((3, 6, 5), frequencies(6, 5)),
    "blur and downsampling": BlurDownsampling(GREY, gaussian_kernel(5, 1.0), 2),
    "motion and downsampling": BlurDownsampling((2, 6, 9), motion_kernel(5, seed=1), 3),
    "box and downsampling": BlurDownsampling((1, 8, 12), box_kernel(4), 2),
    "wide gaussian": CircularBlur((1, 8, 10), gaussian_kernel(7, 2.5)),
    "wide gaussian and downsampling": BlurDownsampling((1, 10, 8), gaussian_kernel(7, 2.5), 2),
    "matrix": Matrix(random(5, 12)),
    "tall matrix": Matrix(random(9, 6), (1, 2, 3)),
    "matrix of low rank": Matrix(low_rank()),
}
LINEAR = {
    "mask after pooling": Composition(Mask(coins(3, 4, 4)), AveragePooling(COLOUR, 2)),
    "separable after blur": Composition(
        Separable(GREY, *[random(4, 8)] * 2), CircularBlur(GREY, box_kernel(3))
    ),
    "mask after blur": Composition(
        Mask(coins(3, 8, 8)), CircularBlur(COLOUR, gaussian_kernel(3, 0.5))
    ),
    "grey after blur": Composition(
        ColourMixing(COLOUR), SeparableBlur(COLOUR, gaussian_kernel(3, 0.5))
    ),
    "rotation after pooling": Composition(
        RandomProjection((2, 3, 3), 18), AveragePooling((2, 6, 6), 2)
    ),
    "rotation after blur": Composition(
        Matrix(torch.linalg.qr(random(30, 24))[0] * 2, (1, 4, 6)),
        SeparableBlur((1, 4, 6), box_kernel(3)),
    ),
    "low rank after low rank": Composition(
        Matrix(random(6, 5) @ low_rank()[:, :5], (5,)), Matrix(low_rank())
    ),
}
OPERATORS = SPECTRAL | LINEAR
every = pytest.mark.parametrize("name", OPERATORS)
spectral = pytest.mark.parametrize("name", SPECTRAL)


def dense(function, shape):
    """The matrix of a linear function of samples, column by column."""
    size = math.prod(shape)
    return function(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1).T


def close(a, b, tolerance=1e-12):
    size = max(1.0, b.abs().max().item()) if b.numel() else 1.0
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * size)


def exactness(name):
    """Rounding of conjugate gradients is multiplied by the condition of the system."""
    return 1e-12 if name in SPECTRAL else 1e-9


@every
def test_adjoint_and_pseudo_inverse(name):
    """Hᵀ is the transpose, and H⁺ satisfies Penrose's four equations."""
    operator = OPERATORS[name]
    H, adjoint, pinv = (
        dense(operator, operator.shape),
        dense(operator.adjoint, operator.shape_out),
        dense(operator.pinv, operator.shape_out),
    )
    assert H.shape == (math.prod(operator.shape_out), math.prod(operator.shape))
    close(adjoint, H.T)
    close(H @ pinv @ H, H, exactness(name))
    close(pinv @ H @ pinv, pinv, exactness(name))
    close(H @ pinv, (H @ pinv).T, exactness(name))
    close(pinv @ H, (pinv @ H).T, exactness(name))
    x = random(2, *operator.shape)
    close(operator.project(x).flatten(1), x.flatten(1) @ (pinv @ H).T, exactness(name))


@spectral
def test_decomposition(name):
    """V and U are orthonormal, and s are the singular values of the dense matrix, all of them."""
    operator = SPECTRAL[name]
    size, rank = math.prod(operator.shape), len(operator.singular_values)
    H = dense(operator, operator.shape)
    V, U = dense(operator.from_spectral, (size,)), dense(operator.from_measure_spectral, (rank,))
    close(V.T @ V, torch.eye(size, dtype=torch.float64))
    close(U.T @ U, torch.eye(rank, dtype=torch.float64))
    close(dense(operator.to_spectral, operator.shape), V.T)
    close(dense(operator.measure_spectral, operator.shape_out), U.T)
    values = torch.linalg.svdvals(H)
    assert (operator.singular_values > 0).all()
    close(operator.singular_values.sort(descending=True)[0], values[:rank])
    close(values[rank:], torch.zeros(len(values) - rank, dtype=torch.float64))


EACH = torch.tensor([0.5, 2.0, 1.3], dtype=torch.float64)
VARIANCES = {
    "numbers": (lambda y: 0.7, lambda y: 0.2),
    "a prior for each sample": (lambda y: EACH.reshape(3, 1, 1, 1), lambda y: 0.3),
    "one of each": (lambda y: EACH, lambda y: EACH.flip(0).reshape(3, 1)),
    "noise of each entry": (lambda y: EACH.reshape(3, 1, 1, 1), lambda y: 0.2 + y.abs()),
    "one row of noise": (lambda y: torch.tensor(0.4), lambda y: 0.2 + y[:1].abs()),
    "no noise": (lambda y: EACH.reshape(3, 1, 1), lambda y: 0.0),
    "some without": (lambda y: 0.8, lambda y: (EACH - 0.5).reshape(3, 1)),
    "all without": (lambda y: EACH, lambda y: torch.zeros(3, 1, dtype=torch.float64)),
    "no prior for some": (lambda y: EACH - 0.5, lambda y: 0.1),
}


@every
@pytest.mark.parametrize("kind", VARIANCES)
def test_solve_is_dense_linear_algebra(name, kind):
    """Rounding is multiplied by the condition of the system at most."""
    operator, (prior, noise) = OPERATORS[name], VARIANCES[kind]
    y = random(3, *operator.shape_out, seed=5)
    H = dense(operator, operator.shape)
    p, v = prior(y), noise(y)
    found = operator.solve(y, prior=p, noise=v).flatten(1)
    for i, row in enumerate(y.flatten(1)):
        level = of_sample(v, i).flatten().expand(len(row))
        system = float(of_sample(p, i)) * H @ H.T + level.diag()
        values, vectors = torch.linalg.eigh(system)
        kept = values > 1e-12 * values[-1]
        expected = vectors[:, kept] @ ((vectors[:, kept].T @ row) / values[kept])
        close(found[i], expected, 1e-12 + 1e-14 * (values[-1] / values[kept][0]).item())


def of_sample(level, i):
    """The variances of one sample."""
    if not torch.is_tensor(level) or level.ndim == 0:
        return torch.as_tensor(level, dtype=torch.float64)
    return level[i if len(level) > 1 else 0]


@every
def test_autograd_is_the_adjoint(name):
    operator = OPERATORS[name]
    x, y = random(2, *operator.shape), random(2, *operator.shape_out, seed=1)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((operator(leaf) * y).sum(), leaf)
    close(gradient, operator.adjoint(y))
    close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())


@every
def test_single_precision(name):
    """Values have the type of the samples, and agree with double precision to its resolution."""
    operator = OPERATORS[name]
    x, y = random(2, *operator.shape), random(2, *operator.shape_out, seed=1)
    for function, value in [(operator, x), (operator.adjoint, y)]:
        single = function(value.float())
        assert single.dtype == torch.float32
        close(single.double(), function(value), 2e-6)
    assert operator.pinv(y.float()).dtype == torch.float32
    assert operator.solve(y.float(), prior=1.0, noise=0.1).dtype == torch.float32


@spectral
def test_other_devices(name):
    """What was computed once goes to the device of the samples, whichever it is."""
    operator = SPECTRAL[name]
    y = operator(torch.empty(2, *operator.shape, device="meta"))
    assert y.device.type == "meta" and y.shape == (2, *operator.shape_out)
    x = operator.pinv(y)
    assert x.device.type == "meta" and x.shape == (2, *operator.shape)
    assert operator.adjoint(y).device.type == "meta"


def test_results_do_not_depend_on_the_batch():
    """A sample's system stops by its own residual: alone it is solved in the same way."""
    operator = LINEAR["separable after blur"]
    y = random(3, *operator.shape_out) * torch.tensor([1e-3, 1.0, 1e3]).double().reshape(3, 1, 1, 1)
    whole = operator.pinv(y)
    for i in range(3):
        torch.testing.assert_close(
            whole[i : i + 1], operator.pinv(y[i : i + 1]), rtol=1e-12, atol=0
        )


def test_small_singular_values_belong_to_h_and_not_to_its_inverse():
    """A 9-tap box has 72 % of its values below 0.03, a Gaussian of std 3 has 94 %."""
    for kernel, share in [(box_kernel(9), 0.72), (gaussian_kernel(19, 3.0), 0.94)]:
        exact, cut = (CircularBlur((1, 64, 64), kernel, rcond) for rcond in (0.0, 0.03))
        x = random(1, 1, 64, 64)
        close(cut(x), exact(x))
        kept = (exact.singular_values > 0.03).sum().item()
        assert 1 - kept / 64**2 == pytest.approx(share, abs=0.006)
        assert (cut.inverse_values(x) > 0).sum() == kept
        again = cut(cut.pinv(cut(x)))
        assert (again - cut(x)).abs().max() > 1e-3
        close(cut.pinv(again), cut.pinv(cut(x)), 1e-10)


def test_the_low_pass_of_bicubic_is_no_projection():
    """‖φ² − φ‖ = 0.25 ‖φ‖, with eigenvalues from 0.25 to 1, while φ made of H⁺ is one."""
    small = Downsampling((1, 8, 8), 4)
    axis = small.horizontal
    phi = torch.kron(4 * axis.T @ axis, 4 * axis.T @ axis)
    close(dense(lambda x: small.upsample(small(x)), small.shape), phi)
    projection = dense(small.project, small.shape)
    close(projection @ projection, projection)
    values = torch.linalg.svdvals(Downsampling((1, 32, 32), 4).horizontal)
    assert values[0].item() == pytest.approx(0.5, abs=0.005)
    assert (values[0] / values[-1]).item() == pytest.approx(1.4, abs=0.03)
    eigenvalues = 16 * (values.square()[:, None] * values.square()).flatten()
    defect = (eigenvalues.square() - eigenvalues).abs().max() / eigenvalues.max()
    assert defect.item() == pytest.approx(0.25, abs=1e-4)
    assert eigenvalues.min().item() == pytest.approx(0.25, abs=0.05)


def test_a_composition_is_not_inverted_piece_by_piece():
    """The left half of each patch is set to 0: H⁺ G⁺ y would come back halved."""
    kept = torch.arange(4).remainder(2).expand(1, 4, 4).double()
    zeros = Matrix(torch.diag(kept.flatten()))
    pool = Matrix(dense(AveragePooling((1, 4, 4), 2), (1, 4, 4)))
    both, y = Composition(pool, zeros), random(2, 4)
    close(both(both.pinv(y)), y)
    close(both(zeros.pinv(pool.pinv(y))), y / 2)
    after = LINEAR["mask after pooling"]
    y = random(2, *after.shape_out)
    torch.testing.assert_close(after.pinv(y), after.inner.pinv(after.outer.pinv(y)), rtol=0, atol=0)


def test_a_mask_for_each_sample():
    """Each sample is measured by its own mask, and the masks follow the rows of the batch."""
    known = torch.stack([torch.roll(torch.arange(12) < 5, i) for i in (0, 3, 7)]).reshape(3, 3, 4)
    operator, x = Mask(known, (3, 4)), random(3, 3, 4)
    y = operator(x)
    torch.testing.assert_close(
        y, torch.stack([a[m] for a, m in zip(x, known, strict=True)]), rtol=0, atol=0
    )
    torch.testing.assert_close(operator.pinv(y), x * known, rtol=0, atol=0)
    index = torch.tensor([2, 0])
    part = rows(operator, index)
    torch.testing.assert_close(part(x[index]), y[index], rtol=0, atol=0)
    measurement = rows(Measurement(operator, y, 0.1), index)
    torch.testing.assert_close(measurement.residual(x[index]), torch.zeros(2, 5).double())
    after = rows(Composition(Matrix(random(2, 5)), operator), index)
    close(after(x[index]), y[index] @ random(2, 5).T)
    assert rows(Mask(known[0]), index)(x).shape == (3, 5)
    with pytest.raises(ValueError, match="a mask for each of 3 samples must meet as many, got 2"):
        operator(x[:2])
    known[1] = True
    with pytest.raises(ValueError, match=r"as many entries in each sample, got \[5, 12\]"):
        Mask(known, (3, 4))


def test_conjugate_gradients_of_singular_systems():
    """With b in the range the solution is the shortest; without curvature the last z is kept."""
    root = random(20, 6)
    matrix = root @ root.T
    b = random(3, 20, seed=1) @ matrix
    found = conjugate_gradients(lambda z: z @ matrix, b)
    close(found, b @ torch.linalg.pinv(matrix, rtol=1e-12, hermitian=True), 1e-9)
    forced = conjugate_gradients(lambda z: z @ matrix, b, tolerance=1e-30, iterations=1000)
    close(forced, found, 1e-12)  # it stops at rounding, which would grow without bound
    indefinite = torch.diag(torch.tensor([1.0, -1.0]).double())
    assert (
        conjugate_gradients(lambda z: z @ indefinite, torch.tensor([[0.0, 1.0]]).double())
        .abs()
        .max()
        == 0
    )
    turned = random(20, 20) - random(20, 20).T  # antisymmetric: all curvature is rounding
    assert conjugate_gradients(lambda z: z @ turned, b).abs().max() == 0
    assert conjugate_gradients(lambda z: 0 * z, b).abs().max() == 0
    assert conjugate_gradients(lambda z: z @ matrix, 0 * b).abs().max() == 0


def test_motion_kernels_are_data_with_a_seed():
    kernels = [motion_kernel(9, seed=seed) for seed in (0, 0, 1)]
    torch.testing.assert_close(kernels[0], kernels[1], rtol=0, atol=0)
    assert (kernels[0] - kernels[2]).abs().max() > 0.01
    for kernel in kernels:
        assert kernel.shape == (9, 9) and (kernel >= 0).all()
        assert kernel.sum().item() == pytest.approx(1)
    line = motion_kernel(9, intensity=0.0)
    i, j = torch.nonzero(line > 1e-3, as_tuple=True)
    points = torch.stack([i, j], 1).double()
    assert torch.linalg.svdvals(points - points.mean(0))[1] < 2 * len(points) ** 0.5 * 0.6


def test_blurs_agree_inside():
    """Circular and bordered blurs differ at the border only, and so does torch's convolution."""
    kernel, x = random(3), random(2, 2, 9, 11)
    weight = (kernel[:, None] * kernel).expand(2, 1, 3, 3)
    expected = torch.nn.functional.conv2d(x, weight, groups=2)
    for operator in [
        CircularBlur((2, 9, 11), kernel),
        *[SeparableBlur((2, 9, 11), kernel, border=b) for b in ("zero", "reflect", "replicate")],
    ]:
        close(operator(x)[..., 1:-1, 1:-1], expected)
    for border in ("reflect", "replicate", "circular"):
        padded = torch.nn.functional.pad(x, [1] * 4, mode=border)
        expected = torch.nn.functional.conv2d(padded, weight, groups=2)
        close(SeparableBlur((2, 9, 11), kernel, border=border)(x), expected)


@pytest.mark.parametrize("kernel", [gaussian_kernel(4, 0.9), motion_kernel(5, seed=1)])
def test_blur_and_downsampling_is_both(kernel):
    """Every f-th pixel of the circular blur; H Hᵀ is the mean of |k̂|² over aliases."""
    shape, f = (2, 9, 12), 3
    blur, both = CircularBlur(shape, kernel), BlurDownsampling(shape, kernel, f)
    x = random(2, *shape)
    close(both(x), blur(x)[..., ::f, ::f])
    impulse = torch.zeros(1, *shape, dtype=torch.float64)
    impulse[..., 0, 0] = 1
    squares = torch.fft.fft2(blur(impulse)).abs().square()
    means = squares.unflatten(-1, (f, 4)).unflatten(-3, (f, 3)).mean((-4, -2))
    y = random(2, *both.shape_out)
    filtered = torch.fft.ifft2(torch.fft.fft2(y) * means).real
    close(both(both.adjoint(y)), filtered)


def test_hadamard_and_fourier_are_the_transforms():
    """Their entries are those of the definition: signs over √n, and unitary coefficients."""
    H = dense(Hadamard((16,), 16), (16,))
    close(H.abs(), torch.full((16, 16), 0.25, dtype=torch.float64))
    operator, x = SPECTRAL["fourier, colour"], random(2, 3, 6, 5)
    spectrum = torch.fft.fft2(x, norm="ortho")
    close(operator.from_coefficients(spectrum), operator(x))
    masked = torch.fft.ifft2(spectrum * operator.known, norm="ortho")
    close(masked.imag, torch.zeros_like(x))
    close(operator.project(x), masked.real)


def test_patterns_of_masks():
    """They know what they say, and fit the operators that they are made for."""
    known = outside_box((3, 6, 8), 2, 4)
    assert not known[:, 2:4, 2:6].any() and known.sum() == 3 * (48 - 8)
    assert not outside_box((1, 4, 4), 1, 2, top=3, left=0)[0, 3, :2].any()
    one, same, other = (random_pixels((3, 8, 8), 0.25, seed) for seed in (0, 0, 1))
    assert one.sum() == 3 * 16 and (one[0] == one[2]).all()
    assert (one == same).all() and (one != other).any()
    batch = random_pixels((3, 8, 8), 0.25, samples=4)
    assert (batch[0] != batch[1]).any()
    assert Mask(batch, (3, 8, 8))(random(4, 3, 8, 8)).shape == (4, 48)
    for width in (16, 15):
        lines = random_columns(8, width, 0.5, centre=0.2)
        assert lines.shape == (8, width) and 0.3 * width < lines[0].sum() <= 0.5 * width
        assert lines[0, :2].all() and lines[0, -1]  # the lowest
        FourierMask((1, 8, width), lines)
    assert (random_columns(8, 32, 0.4) != random_columns(8, 32, 0.4, seed=1)).any()


KERNEL = box_kernel(3)
REFUSED = {
    "negative rcond": (
        lambda: CircularBlur(GREY, KERNEL, rcond=-0.1),
        r"rcond must be in \[0, 1\)",
    ),
    "rcond 1": (lambda: BlurDownsampling(GREY, KERNEL, 2, rcond=1.0), r"rcond must be in \[0, 1\)"),
    "batch in the shape": (lambda: AveragePooling((2, 3, 8, 8), 2), "leave the batch out"),
    "size 0": (lambda: ColourMixing((3, 0, 8)), "shape must be that of one image"),
    "factor": (lambda: AveragePooling((1, 8, 9), 2), "got 2 for 8 × 9; crop them to 8 × 8"),
    "factor of bicubic": (
        lambda: Downsampling((1, 6, 8), 4),
        "must divide the height and the width",
    ),
    "factor of blur": (lambda: BlurDownsampling((1, 6, 8), KERNEL, 4), "must divide"),
    "factor 1": (lambda: AveragePooling(GREY, 1), "factor must be an integer ≥ 2, got 1"),
    "kernel": (
        lambda: Downsampling(GREY, 2, "bicubic"),
        "unknown kernel 'bicubic'. Available: cubic",
    ),
    "large kernel": (lambda: CircularBlur(GREY, box_kernel(9)), r"got \(9, 9\) taps for \(8, 8\)"),
    "large taps": (
        lambda: SeparableBlur((1, 8, 4), box_kernel(5)),
        r"\(5,\) taps for \(4,\) pixels",
    ),
    "3-D kernel": (lambda: CircularBlur(GREY, random(3, 3, 3)), "kernel must have 2 dimensions"),
    "zero kernel": (lambda: CircularBlur(GREY, 0 * KERNEL), "finite and not zero everywhere"),
    "nan kernel": (lambda: SeparableBlur(GREY, KERNEL / 0), "finite and not zero everywhere"),
    "border": (lambda: SeparableBlur(GREY, KERNEL, border="mirror"), "unknown border 'mirror'"),
    "columns": (
        lambda: Separable(GREY, random(3, 8), random(3, 7)),
        "horizontal must be a matrix of 8",
    ),
    "zero axis": (
        lambda: Separable(GREY, 0 * random(3, 8), random(3, 8)),
        "vertical must be finite",
    ),
    "weights": (lambda: ColourMixing(COLOUR, [1.0, 2.0]), "one entry for each of 3 channels"),
    "zero weights": (
        lambda: ColourMixing(COLOUR, [0.0] * 3),
        "weights must be finite and not zero",
    ),
    "rows": (lambda: RandomProjection((4,), 5), "count must be at most .* 4, got 5"),
    "no rows": (lambda: Hadamard(GREY, 0), "count must be an integer ≥ 1"),
    "no power of two": (lambda: Hadamard((3, 6, 8), 4), "power of two .* got 48; use 32 or 64"),
    "shape of vectors": (lambda: Hadamard((8, 8), 4), r"shape must be \(C, H, W\) or \(D,\)"),
    "uneven frequencies": (
        lambda: FourierMask(GREY, torch.arange(64).reshape(8, 8) < 30),
        "the same at ω and −ω for real images, and .* differ",
    ),
    "no frequencies": (lambda: FourierMask(GREY, torch.zeros(8, 8) > 0), "got 0 of 64 known"),
    "all frequencies": (lambda: FourierMask(GREY, torch.ones(8, 8) > 0), "got 64 of 64 known"),
    "frequencies of another image": (lambda: FourierMask(GREY, coins(4, 8)), "for each frequency"),
    "everything": (lambda: Mask(torch.ones(4) > 0), "got 4 of 4 known"),
    "nothing": (lambda: Mask(torch.zeros(4) > 0), "got 0 of 4 known"),
    "mask of another shape": (lambda: Mask(coins(3), (4,)), "known must broadcast"),
    "swapped": (
        lambda: Composition(AveragePooling(GREY, 2), Mask(coins(1, 4, 4))),
        "are the two swapped",
    ),
    "negative prior": (
        lambda: SPECTRAL["pooling"].solve(random(1, 1, 4, 4), prior=-1.0, noise=0.0),
        "prior must be a finite number ≥ 0",
    ),
    "noise of another shape": (
        lambda: SPECTRAL["pooling"].solve(random(2, 1, 4, 4), prior=1.0, noise=random(2, 1, 3, 3)),
        r"noise must be a number or a tensor of shape \(2, 1, …\)",
    ),
    "prior of each entry": (
        lambda: SPECTRAL["pooling"].solve(random(2, 1, 4, 4), prior=random(2, 1, 4, 4), noise=0.1),
        r"prior must be .* one in each sample, got \(2, 1, 4, 4\)",
    ),
    "samples": (
        lambda: SPECTRAL["bicubic"](random(2, 3, 8, 8)),
        r"samples of Downsampling .* \(B, 1, 8, 8\)",
    ),
    "measurements": (
        lambda: SPECTRAL["bicubic"].pinv(random(2, 1, 8, 8)),
        r"must have shape \(B, 1, 4, 4\)",
    ),
    "box outside": (lambda: outside_box(GREY, 4, 4, top=6), "must lie inside the image of 8 × 8"),
    "large box": (lambda: outside_box(GREY, 9, 4), "must lie inside the image"),
    "share": (lambda: random_pixels(GREY, 25), r"share must be in \(0, 1\), got 25"),
    "centre": (lambda: random_columns(8, 8, 0.2, 0.5), r"centre must be in \[0, share\], got 0.5"),
    "few columns": (lambda: random_columns(8, 8, 0.05, 0.0), "too small for one of 8 columns"),
    "box": (lambda: box_kernel(0), "size must be an integer ≥ 1"),
    "gaussian": (lambda: gaussian_kernel(3, 0.0), "std must be a number > 0"),
    "intensity": (lambda: motion_kernel(5, -1.0), "intensity must be a finite number ≥ 0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    function, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        function()


def test_refused_types():
    with pytest.raises(TypeError, match="known must be of type bool"):
        FourierMask(GREY, torch.ones(8, 8))
    with pytest.raises(TypeError, match="kernel must be floating point"):
        CircularBlur(GREY, torch.ones(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="outer must be a linear operator"):
        Composition(torch.nn.Identity(), SPECTRAL["grey"])


def test_the_residual_of_gmres_never_grows():
    """Smallest residuals of the Krylov space by least squares, for matrices of any kind."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, 6, 6, generator=generator, dtype=torch.float64)
    a[1] = a[1] @ a[1].T
    a[2] = a[2] - a[2].T
    a[3, :, 0] = 0
    a[4] = torch.eye(6)
    b = torch.randn(5, 6, generator=generator, dtype=torch.float64)

    def apply(z):
        return (a @ z[:, :, None])[:, :, 0]

    last = b.norm(dim=1)
    krylov = [b]
    for iterations in range(1, 7):
        residual = (b - apply(gmres(apply, b, iterations))).norm(dim=1)
        space = torch.stack([v / v.norm(dim=1, keepdim=True) for v in krylov], 2)
        best = torch.linalg.lstsq(a @ space, b[:, :, None], driver="gelsd").solution
        least = (b - (a @ space @ best)[:, :, 0]).norm(dim=1)
        torch.testing.assert_close(residual, least, rtol=1e-6, atol=1e-8)
        assert (residual <= last + 1e-10).all()
        last, krylov = residual, [*krylov, apply(krylov[-1])]
    assert (last[[0, 1, 2, 4]] < 1e-9).all()
