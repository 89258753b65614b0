"""Data sets: raw tensors in memory, the scaling to a network's range, and stateless batches."""

from .base import Dataset, Split, stream
from .batch import Batch
from .blank import Blank
from .cifar10 import CIFAR10
from .digits import Digits
from .folder import Folder
from .mnist import MNIST
from .toy import Checkerboard, EightGaussians, Mixture, Moons, SwissRoll

__all__ = [
    "CIFAR10",
    "MNIST",
    "Batch",
    "Blank",
    "Checkerboard",
    "Dataset",
    "Digits",
    "EightGaussians",
    "Folder",
    "Mixture",
    "Moons",
    "Split",
    "SwissRoll",
    "stream",
]
