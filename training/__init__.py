"""Training: losses, the average of the weights, the loop, checkpoints and loggers."""

from .data_prediction import DataPrediction
from .dequantization import DequantizationLoss
from .ema import EMA
from .hybrid import HybridLoss
from .loop import Step, Warmup, fit
from .loss import DenoisingScoreMatching
from .noise_level import NoiseLevelLoss
from .objective import Batch, Loss
from .times import ImportanceTimes, LogNormalTimes, uniform_times

__all__ = [
    "EMA",
    "Batch",
    "DataPrediction",
    "DenoisingScoreMatching",
    "DequantizationLoss",
    "HybridLoss",
    "ImportanceTimes",
    "LogNormalTimes",
    "Loss",
    "NoiseLevelLoss",
    "Step",
    "Warmup",
    "fit",
    "uniform_times",
]
