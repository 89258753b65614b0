"""Controllable generation: guidance, measurements, posterior samplers, editing, translation."""

from .classifier import ClassifierGuidance, LossGuidance
from .classifier_free import ClassifierFree
from .combination import Autoguidance, Combination
from .daps import DAPS
from .ddnm import DDNM, DDNMProjection
from .ddrm import DDRM
from .diffpir import DiffPIR, Proximal
from .dps import DPS, DPSSampler
from .editing import ccdf, contraction, sdedit
from .feynman_kac import FeynmanKac, TwoScores
from .guided import Guided
from .interval import Interval
from .inversion import ExactInversion
from .known import KnownPixels
from .local_posterior import LangevinDraw
from .mcg_diff import MCGDiff
from .measurements import Mask, Matrix, Measurement
from .mmps import MMPS
from .particles import Particles
from .pigdm import PiGDM, PiGDMSampler
from .posterior_sampler import Move, PosteriorSampler
from .posterior_score import PosteriorMethod, PosteriorScore
from .prediction import Prediction
from .repaint import RePaint
from .replacement import ILVR, Inpaint, Replacement
from .split_gibbs import SplitGibbs, pnp_dm
from .thresholds import DynamicThreshold, StaticThreshold
from .translation import DDIB
from .twisted import TDS
from .weights import Population

__all__ = [
    "DAPS",
    "DDIB",
    "DDNM",
    "DDRM",
    "DPS",
    "ILVR",
    "MMPS",
    "TDS",
    "Autoguidance",
    "ClassifierFree",
    "ClassifierGuidance",
    "Combination",
    "DDNMProjection",
    "DPSSampler",
    "DiffPIR",
    "DynamicThreshold",
    "ExactInversion",
    "FeynmanKac",
    "Guided",
    "Inpaint",
    "Interval",
    "KnownPixels",
    "LangevinDraw",
    "LossGuidance",
    "MCGDiff",
    "Mask",
    "Matrix",
    "Measurement",
    "Move",
    "Particles",
    "PiGDM",
    "PiGDMSampler",
    "Population",
    "PosteriorMethod",
    "PosteriorSampler",
    "PosteriorScore",
    "Prediction",
    "Proximal",
    "RePaint",
    "Replacement",
    "SplitGibbs",
    "StaticThreshold",
    "TwoScores",
    "ccdf",
    "contraction",
    "pnp_dm",
    "sdedit",
]
