"""Training: losses, the average of the weights, the loop, checkpoints and loggers."""

from .classifier import ClassifierLoss
from .condition_dropout import ConditionDropout
from .data_prediction import DataPrediction
from .dequantization import DequantizationLoss
from .ema import EMA
from .hole import HoleLoss
from .hybrid import HybridLoss
from .loop import Step, Warmup, fit
from .loss import DenoisingScoreMatching
from .noise_level import NoiseLevelLoss
from .noisy_condition import NoisyCondition
from .objective import Batch, Loss
from .times import ImportanceTimes, LogNormalTimes, uniform_times

__all__ = [
    "EMA",
    "Batch",
    "ClassifierLoss",
    "ConditionDropout",
    "DataPrediction",
    "DenoisingScoreMatching",
    "DequantizationLoss",
    "HoleLoss",
    "HybridLoss",
    "ImportanceTimes",
    "LogNormalTimes",
    "Loss",
    "NoiseLevelLoss",
    "NoisyCondition",
    "Step",
    "Warmup",
    "fit",
    "uniform_times",
]
