"""Samplers: everything that turns a process and a score into samples."""

from .base import Sampler, Samples, draw
from .correctors import AnnealedLangevinStep, Corrector, Langevin
from .grid import FixedGrid, Grid, LogSNRGrid, UniformGrid
from .ode import ProbabilityFlowODE
from .pc import AnnealedLangevin, PredictorCorrector
from .predictors import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Predictor,
    ProbabilityFlowEuler,
    ProbabilityFlowHeun,
    Rescale,
    ReverseDiffusion,
)

__all__ = [
    "DDIM",
    "Ancestral",
    "AnnealedLangevin",
    "AnnealedLangevinStep",
    "Corrector",
    "EulerMaruyama",
    "FixedGrid",
    "Grid",
    "Langevin",
    "LogSNRGrid",
    "Predictor",
    "PredictorCorrector",
    "ProbabilityFlowEuler",
    "ProbabilityFlowHeun",
    "ProbabilityFlowODE",
    "Rescale",
    "ReverseDiffusion",
    "Sampler",
    "Samples",
    "UniformGrid",
    "draw",
]
