"""Samplers: everything that turns a process and a score into samples."""

from .adaptive import AdaptiveSDE
from .base import Sampler, Samples, draw
from .correctors import AnnealedLangevinStep, Corrector, Langevin
from .exponential import ExponentialMultistep, ExponentialSinglestep
from .grid import FixedGrid, Grid, KarrasGrid, LogSNRGrid, QuadraticGrid, UniformGrid
from .latent import interpolate
from .noise_adaptive import NoiseAdaptive
from .ode import ProbabilityFlowODE
from .optimized import OptimizedGrid
from .parallel import ParallelPicard
from .pc import AnnealedLangevin, PredictorCorrector
from .pndm import PNDM
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
from .torchsde import TorchSDE

__all__ = [
    "DDIM",
    "PNDM",
    "SRA1",
    "AdaptiveSDE",
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
    "KarrasGrid",
    "Langevin",
    "LogSNRGrid",
    "NoiseAdaptive",
    "OptimizedGrid",
    "ParallelPicard",
    "Predictor",
    "PredictorCorrector",
    "ProbabilityFlowEuler",
    "ProbabilityFlowODE",
    "QuadraticGrid",
    "Rescale",
    "Restart",
    "ReverseDiffusion",
    "RungeKutta",
    "Sampler",
    "Samples",
    "Solver",
    "StochasticHeun",
    "TorchSDE",
    "UniformGrid",
    "draw",
    "interpolate",
]
