"""Measurements y = H x + σ_y n of samples: operators, their noise, and their decompositions."""

from .blur import CircularBlur, SeparableBlur
from .blur_downsampling import BlurDownsampling
from .clipping import Clipping
from .colour import ColourMixing
from .composition import Composition
from .fourier import FourierMask
from .jpeg import JPEG
from .kernels import box_kernel, gaussian_kernel, motion_kernel
from .level_estimate import detail_std, residual_std
from .mask import Mask
from .matrix import Matrix
from .measurement import Measurement
from .noise import Gaussian, Noise, Poisson
from .operator import LinearOperator, Operator, SpectralOperator
from .patterns import outside_box, random_columns, random_pixels
from .phase_retrieval import PhaseRetrieval
from .pooling import AveragePooling
from .projection import Hadamard, RandomProjection
from .resize import Downsampling
from .separable import Separable

__all__ = [
    "JPEG",
    "AveragePooling",
    "BlurDownsampling",
    "CircularBlur",
    "Clipping",
    "ColourMixing",
    "Composition",
    "Downsampling",
    "FourierMask",
    "Gaussian",
    "Hadamard",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Measurement",
    "Noise",
    "Operator",
    "PhaseRetrieval",
    "Poisson",
    "RandomProjection",
    "Separable",
    "SeparableBlur",
    "SpectralOperator",
    "box_kernel",
    "detail_std",
    "gaussian_kernel",
    "motion_kernel",
    "outside_box",
    "random_columns",
    "random_pixels",
    "residual_std",
]
