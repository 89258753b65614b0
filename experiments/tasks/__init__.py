"""The tasks of a run, one in each file."""

from .base import Task
from .cascade import Cascade
from .classifier import Classifier
from .dequantizer import Dequantizer
from .generate import Generate
from .likelihood import Likelihood
from .noise_estimator import NoiseEstimator
from .restore import Restore
from .sample import Sample

__all__ = [
    "Cascade",
    "Classifier",
    "Dequantizer",
    "Generate",
    "Likelihood",
    "NoiseEstimator",
    "Restore",
    "Sample",
    "Task",
]
