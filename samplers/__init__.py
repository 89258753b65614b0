"""Samplers: everything that turns a process and a score into samples."""

from .base import Sampler, Samples, draw
from .correctors import AnnealedLangevinStep, Corrector, Langevin
from .exponential import ExponentialMultistep, ExponentialSinglestep
from .grid import FixedGrid, Grid, LogSNRGrid, UniformGrid
from .ode import ProbabilityFlowODE
from .pc import AnnealedLangevin, PredictorCorrector
from .predictors import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Predictor,
    ProbabilityFlowEuler,
    Rescale,
    ReverseDiffusion,
)
from .restart import Restart
from .runge_kutta import EDMHeun, RungeKutta
from .solver import Solver
from .stochastic import SRA1, StochasticHeun

__all__ = [
    "DDIM",
    "SRA1",
    "Ancestral",
    "AnnealedLangevin",
    "AnnealedLangevinStep",
    "Corrector",
    "EDMHeun",
    "EulerMaruyama",
    "ExponentialMultistep",
    "ExponentialSinglestep",
    "FixedGrid",
    "Grid",
    "Langevin",
    "LogSNRGrid",
    "Predictor",
    "PredictorCorrector",
    "ProbabilityFlowEuler",
    "ProbabilityFlowODE",
    "Rescale",
    "Restart",
    "ReverseDiffusion",
    "RungeKutta",
    "Sampler",
    "Samples",
    "Solver",
    "StochasticHeun",
    "UniformGrid",
    "draw",
]
