"""Data sets: raw samples, the scaling to a network's range, and stateless batches."""

from .base import Dataset, Samples, Split, stream
from .batch import Batch, Condition
from .blank import Blank
from .cifar10 import CIFAR10
from .digits import Digits
from .folder import Folder
from .levels import GreyLevels
from .memory import InMemory
from .mixture import EightGaussians, Mixture
from .mnist import MNIST
from .pairs import (
    Colorization,
    Decompression,
    Inpainting,
    Pair,
    SuperResolution,
    Uncropping,
)
from .pooled import Pooled
from .streamed import Streamed
from .tensors import Tensors
from .toy import Checkerboard, Moons, SwissRoll

__all__ = [
    "CIFAR10",
    "MNIST",
    "Batch",
    "Blank",
    "Checkerboard",
    "Colorization",
    "Condition",
    "Dataset",
    "Decompression",
    "Digits",
    "EightGaussians",
    "Folder",
    "GreyLevels",
    "InMemory",
    "Inpainting",
    "Mixture",
    "Moons",
    "Pair",
    "Pooled",
    "Samples",
    "Split",
    "Streamed",
    "SuperResolution",
    "SwissRoll",
    "Tensors",
    "Uncropping",
    "stream",
]
