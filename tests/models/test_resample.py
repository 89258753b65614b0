"""FIR resampling compared with upfirdn pixel by pixel, and the modules without parameters."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde.models.resample import (
    Downsample2d,
    DownsampleConv2d,
    Upsample2d,
    UpsampleConv2d,
    fir_downsample,
    fir_downsample_conv,
    fir_kernel,
    fir_upsample,
    fir_upsample_conv,
)

Taps = tuple[float, ...]

TAPS: list[Taps] = [(1, 3, 3, 1), (1, 5, 10, 10, 5, 1), (1, 2, 3, 5), (2, 1)]  # even
TAPS += [(1, 2, 1), (1, 4, 2), (3, 1, 4, 1, 5), (1,)]  # odd


def assert_exact(actual: Tensor, expected: Tensor) -> None:
    """Both sides compute in float64 and differ in the order of their sums alone."""
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def zero_insert(image: np.ndarray, up: int) -> np.ndarray:
    out = np.zeros((image.shape[0] * up, image.shape[1] * up))
    out[::up, ::up] = image
    return out


def pad(image: np.ndarray, before: int, after: int) -> np.ndarray:
    """Pad the image with zeros; a negative number crops."""
    image = np.pad(image, ((max(before, 0), max(after, 0)),) * 2)
    crop = slice(max(-before, 0), image.shape[0] - max(-after, 0))
    return image[crop, slice(max(-before, 0), image.shape[1] - max(-after, 0))]


def correlate(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    rows, cols = (n - k + 1 for n, k in zip(image.shape, kernel.shape, strict=True))
    out = np.zeros((rows, cols))
    for i in range(rows):
        for j in range(cols):
            window = image[i : i + kernel.shape[0], j : j + kernel.shape[1]]
            out[i, j] = (window * kernel).sum()
    return out


def upfirdn(
    image: np.ndarray, taps: Taps, pads: tuple[int, int], up: int = 1, down: int = 1
) -> np.ndarray:
    """upfirdn: zero insertion, padding, convolution with a kernel of gain up², decimation."""
    kernel = np.outer(taps, taps) / sum(taps) ** 2 * up**2
    image = pad(zero_insert(image, up), *pads)
    return correlate(image, kernel[::-1, ::-1])[::down, ::down]


def per_channel(x: Tensor, function: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    arrays = [[function(channel) for channel in image] for image in x.numpy()]
    return torch.from_numpy(np.array(arrays))


def convolve(images: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """All channels (C, H, W) with a weight (D, C, 3, 3), without padding."""
    pairs = [[correlate(x, w) for x, w in zip(images, ws, strict=True)] for ws in weight]
    return np.array(pairs).sum(1)


@pytest.fixture
def x() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 6, 8, generator=generator, dtype=torch.float64)


@pytest.fixture
def weight() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64)


def kernel64(taps: Taps) -> Tensor:
    k = torch.tensor(taps, dtype=torch.float64)
    exact = nn.functional.pad(k / k.sum(), (len(taps) % 2, 0))
    # The library's kernel is float32: it is checked, and then replaced by the exact one.
    torch.testing.assert_close(fir_kernel(taps).double(), torch.outer(exact, exact))
    return torch.outer(exact, exact)


@pytest.mark.parametrize("taps", TAPS)
def test_upsampling_is_upfirdn(x: Tensor, taps: Taps) -> None:
    p = len(taps) - 2
    expected = per_channel(x, lambda c: upfirdn(c, taps, ((p + 1) // 2 + 1, p // 2), up=2))
    assert_exact(fir_upsample(x, kernel64(taps)), expected)


@pytest.mark.parametrize("taps", TAPS)
def test_downsampling_is_upfirdn(x: Tensor, taps: Taps) -> None:
    p = len(taps) - 2
    expected = per_channel(x, lambda c: upfirdn(c, taps, ((p + 1) // 2, p // 2), down=2))
    assert_exact(fir_downsample(x, kernel64(taps)), expected)


@pytest.mark.parametrize("taps", TAPS)
def test_downsampling_convolution_filters_then_strides(
    x: Tensor, weight: Tensor, taps: Taps
) -> None:
    p = len(taps)  # (K - 2) for halving, and 2 for the 3x3 convolution
    filtered = per_channel(x, lambda c: upfirdn(c, taps, ((p + 1) // 2, p // 2)))
    convolved = np.array([convolve(image, weight.numpy()) for image in filtered.numpy()])
    expected = torch.from_numpy(convolved[:, :, ::2, ::2])
    actual = fir_downsample_conv(x, kernel64(taps), weight, None)
    assert_exact(actual, expected)
    bias = torch.arange(4.0, dtype=torch.float64)
    biased = fir_downsample_conv(x, kernel64(taps), weight, bias)
    assert_exact(biased, expected + bias[:, None, None])


@pytest.mark.parametrize("taps", TAPS)
def test_upsampling_convolution_convolves_then_filters(
    x: Tensor, weight: Tensor, taps: Taps
) -> None:
    p = len(taps) - 4  # (K - 2) for doubling, less 2 for the 3x3 convolution
    # Zero insertion leaves one trailing zero, so "full" padding is 2 before and 1 after.
    spread = per_channel(x, lambda c: pad(zero_insert(c, 2), 2, 1)).numpy()
    convolved = torch.from_numpy(np.array([convolve(image, weight.numpy()) for image in spread]))
    pads = ((p + 1) // 2 + 1, p // 2 + 1)
    expected = 4 * per_channel(convolved, lambda c: upfirdn(c, taps, pads))
    actual = fir_upsample_conv(x, kernel64(taps), weight, None)
    assert_exact(actual, expected)
    bias = torch.arange(4.0, dtype=torch.float64)
    biased = fir_upsample_conv(x, kernel64(taps), weight, bias)
    assert_exact(biased, expected + bias[:, None, None])


# Zero insertion fills the even and the odd pixels with different taps, so doubling keeps a
# constant only where both halves of the taps have the same sum.
@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 2, 1), (1, 5, 10, 10, 5, 1), (2, 3, 3, 2)])
def test_constant_images_stay_constant_in_the_interior(taps: Taps) -> None:
    x = torch.full((1, 2, 16, 16), 0.7)
    border = len(taps) // 2
    for y in (Upsample2d(taps)(x), Downsample2d(taps)(x)):
        interior = y[..., border:-border, border:-border]
        # float32 sums of at most 36 terms
        torch.testing.assert_close(interior, torch.full_like(interior, 0.7), rtol=1e-6, atol=0)
        assert not torch.allclose(y[..., 0, 0], interior[..., 0, 0])  # the border sees the zeros


def test_without_taps_nearest_neighbour_and_mean(x: Tensor) -> None:
    up = x.numpy().repeat(2, axis=2).repeat(2, axis=3)
    assert_exact(Upsample2d(None)(x), torch.from_numpy(up))
    down = x.numpy().reshape(2, 3, 3, 2, 4, 2).mean((3, 5))
    assert_exact(Downsample2d(None)(x), torch.from_numpy(down))


def test_without_taps_convolutions_pad_like_the_published_networks(x: Tensor) -> None:
    down, up = DownsampleConv2d(3, 4, None).double(), UpsampleConv2d(3, 4, None).double()
    with torch.no_grad():
        padded = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 1), (0, 1)))
        expected = [convolve(image, down.conv.weight.numpy())[:, ::2, ::2] for image in padded]
        assert_exact(down(x), torch.from_numpy(np.array(expected)))
        padded = np.pad(x.numpy().repeat(2, 2).repeat(2, 3), ((0, 0), (0, 0), (1, 1), (1, 1)))
        expected = [convolve(image, up.conv.weight.numpy()) for image in padded]
        assert_exact(up(x), torch.from_numpy(np.array(expected)))


@pytest.mark.parametrize("taps", [None, (1, 3, 3, 1)])
def test_channels_last_gives_the_same_and_stays_channels_last(taps: Taps | None) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    y = x.contiguous(memory_format=torch.channels_last)
    modules: list[nn.Module] = [Upsample2d(taps), Downsample2d(taps)]
    modules += [UpsampleConv2d(4, 6, taps), DownsampleConv2d(4, 6, taps)]
    for module in modules:
        actual, expected = module(y), module(x)
        # float32, another order of summation
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
        assert actual.is_contiguous(memory_format=torch.channels_last), module


@pytest.mark.parametrize("taps", [(), (1, -1)])
def test_taps_without_a_mean_are_refused(taps: Taps) -> None:
    with pytest.raises(ValueError, match="fir_kernel must hold numbers with a nonzero sum"):
        fir_kernel(taps)
