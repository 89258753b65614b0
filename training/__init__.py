"""Training: the loss, the average, the loop, checkpoints and loggers."""

from .ema import EMA
from .loop import Step, Warmup, fit
from .loss import DenoisingScoreMatching
from .noise_level import NoiseLevelLoss
from .times import LogNormalTimes, uniform_times

__all__ = [
    "EMA",
    "DenoisingScoreMatching",
    "LogNormalTimes",
    "NoiseLevelLoss",
    "Step",
    "Warmup",
    "fit",
    "uniform_times",
]
