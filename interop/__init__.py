"""Checkpoints of other projects, read and written without running anything that is in them."""

from .diffusers import load_diffusers, save_diffusers
from .edm import load_edm
from .formats import format_of, load
from .score_sde import load_score_sde, save_score_sde

__all__ = [
    "format_of",
    "load",
    "load_diffusers",
    "load_edm",
    "load_score_sde",
    "save_diffusers",
    "save_score_sde",
]
