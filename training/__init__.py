"""Training: the loss, the average, the loop, checkpoints and loggers."""

from .ema import EMA
from .loop import Step, Warmup, fit
from .loss import DenoisingScoreMatching, uniform_times

__all__ = ["EMA", "DenoisingScoreMatching", "Step", "Warmup", "fit", "uniform_times"]
