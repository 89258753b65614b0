"""Data sets: raw tensors in memory, the scaling to a network's range, and stateless batches."""

from data.base import Dataset, Split, stream
from data.blank import Blank
from data.images import CIFAR10, MNIST, Digits, Folder
from data.toy import Checkerboard, EightGaussians, Mixture, Moons, SwissRoll

__all__ = [
    "CIFAR10",
    "MNIST",
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
