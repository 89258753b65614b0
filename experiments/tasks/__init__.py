"""The tasks of a run, one in each file."""

from .base import Task
from .dequantizer import Dequantizer
from .generate import Generate
from .likelihood import Likelihood
from .noise_estimator import NoiseEstimator
from .sample import Sample

__all__ = ["Dequantizer", "Generate", "Likelihood", "NoiseEstimator", "Sample", "Task"]
