"""What a run can be for: one task a file."""

from .base import Task
from .dequantizer import Dequantizer
from .generate import Generate
from .likelihood import Likelihood
from .noise_estimator import NoiseEstimator
from .sample import Sample

__all__ = ["Dequantizer", "Generate", "Likelihood", "NoiseEstimator", "Sample", "Task"]
