"""Networks, the wrapper that turns them into scores, and scores in closed form."""

from .classifier import NoisyClassifier
from .dequantizer import DequantizationFlow
from .exact import GaussianMixtureScore, GaussianScore
from .given import Given
from .mlp import MLP
from .noise_level import NoiseLevelEstimator
from .refinenet import RefineNet
from .score import ScoreModel
from .unet import UNet

__all__ = [
    "MLP",
    "DequantizationFlow",
    "GaussianMixtureScore",
    "GaussianScore",
    "Given",
    "NoiseLevelEstimator",
    "NoisyClassifier",
    "RefineNet",
    "ScoreModel",
    "UNet",
]
