"""The matrices of published code, where its operators are what they are called."""

import numpy as np
import pytest
import torch

from scoresde.conditioning.measurements import (
    AveragePooling,
    ColourMixing,
    Downsampling,
    Mask,
    SeparableBlur,
)
from scoresde.conditioning.measurements.resize import downsampling_matrix
from tests.places import SHARED

GOLDEN = SHARED / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="golden files of peers are absent")
SHAPE = (3, 8, 8)
FLOAT32 = 2e-6  # of the largest entry: the files are in single precision


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {
            key: torch.as_tensor(file[key]).double()
            for key in file.files
            if key.startswith("resizer") or key.endswith(("matrix", "/kernel", "/H", "singulars"))
        }


def dense(operator):
    size = int(np.prod(operator.shape))
    eye = torch.eye(size, dtype=torch.float64).reshape(size, *operator.shape)
    return operator(eye).flatten(1).T


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=FLOAT32 * b.abs().max().item())


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_downsampling_is_that_of_ilvr(factor):
    """Matrices of one axis and whole images, with enlargement f Dᵀ for the cubic kernel."""
    files = golden("ilvr")
    x = files["resizer/x"]
    matrix = downsampling_matrix(32, factor)
    close(matrix, files[f"resizer/{factor}/cubic/down_matrix"])
    close(factor * matrix.T, files[f"resizer/{factor}/cubic/up_matrix"])
    for kernel in ("cubic", "linear", "lanczos3"):
        operator = Downsampling((3, 32, 32), factor, kernel)
        close(operator(x), files[f"resizer/{factor}/{kernel}/down"])
        close(operator.upsample(operator(x)), files[f"resizer/{factor}/{kernel}/low_pass"])


def test_operators_are_those_of_dps():
    files = golden("dps")
    close(dense(Downsampling((1, 16, 16), 4)), files["superres4/per_channel_matrix"])
    kernel = files["gaussian_blur/kernel"][0, 0].sum(1)
    blur = SeparableBlur((1, 16, 16), kernel, border="reflect")
    close(dense(blur), files["gaussian_blur/per_channel_matrix"])
    known = files["inpainting/per_channel_matrix"].diagonal().reshape(1, 16, 16) > 0
    mask = dense(Mask(known))  # the file keeps the hidden entries as zeros
    close(mask.T @ mask, files["inpainting/per_channel_matrix"])


def ddrm_operators(files):
    taps = torch.arange(6, dtype=torch.float64) - 3
    kernel = (-0.5 * (taps / 0.7).square()).exp()
    return {
        "superres2": AveragePooling(SHAPE, 2),
        "bicubic2": Downsampling(SHAPE, 2),
        "colorization": ColourMixing(SHAPE, [0.3333, 0.3334, 0.3333]),
        "deblur": SeparableBlur(SHAPE, kernel / kernel.sum(), border="zero"),
        "inpainting": Mask(files["inpainting/H"].sum(0).reshape(SHAPE) > 0),
    }


@pytest.mark.parametrize("name", ["superres2", "bicubic2", "colorization", "deblur", "inpainting"])
def test_operators_are_those_of_ddrm(name):
    """The released mask lists its entries channel by channel within a pixel."""
    files = golden("ddrm")
    operator, H = ddrm_operators(files)[name], files[f"{name}/H"]
    if name == "inpainting":
        H = H[H.argmax(1).argsort()]
    close(dense(operator), H)
    values = operator.singular_values.sort(descending=True)[0]
    close(values, files[f"{name}/singulars"].sort(descending=True)[0][: len(values)])


def test_the_released_colour_blur_is_none():
    """Its singular values go channel by channel and its vectors pixel by pixel."""
    files = golden("ddrm")
    blur = dense(ddrm_operators(files)["deblur"])
    assert (files["deblur_as_released/H"] - blur).norm() > 0.3 * blur.norm()
