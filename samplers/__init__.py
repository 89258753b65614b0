"""Samplers: everything that turns a process and a score into samples."""

from .adaptive import AdaptiveSDE
from .annealed import AnnealedLangevin
from .base import Sampler, Samples, draw
from .grids.grid import FixedGrid, Grid, KarrasGrid, LogSNRGrid, QuadraticGrid, UniformGrid
from .grids.optimized import OptimizedGrid
from .langevin import AnnealedLangevinStep, Corrector, Langevin
from .latent import interpolate
from .noise_adaptive import NoiseAdaptive
from .ode import ProbabilityFlowODE
from .parallel import ParallelPicard
from .pc import PredictorCorrector
from .solvers.exponential import ExponentialMultistep, ExponentialSinglestep
from .solvers.pndm import PNDM
from .solvers.predictors import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Predictor,
    ProbabilityFlowEuler,
    Rescale,
    ReverseDiffusion,
)
from .solvers.restart import Restart
from .solvers.runge_kutta import EDMHeun, RungeKutta
from .solvers.solver import Solver
from .solvers.stochastic import SRA1, StochasticHeun
from .solvers.variance import AnalyticVariance, fit
from .torchsde import TorchSDE

__all__ = [
    "DDIM",
    "PNDM",
    "SRA1",
    "AdaptiveSDE",
    "AnalyticVariance",
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
    "fit",
    "interpolate",
]
