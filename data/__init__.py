"""Data sets: raw tensors in memory, the scaling to a network's range, and stateless batches."""

from data.base import Dataset, Split, stream
from data.blank import Blank
from data.cifar10 import CIFAR10
from data.digits import Digits
from data.folder import Folder
from data.mnist import MNIST
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
