"""Forward processes, their reverse, their chains, and the integration of their ODEs."""

from .base import SDE
from .broadcast import expand
from .description import Described, construct, current_names, describe
from .discrete import Discretized
from .edm import EDM
from .integrate import integrate
from .prior import Prior
from .reverse import ReverseSDE
from .schedule import CosineSchedule, LinearSchedule, ScaledLinearSchedule, Schedule
from .score import Condition, Evaluations, Score, rows
from .subvp import SubVP
from .until import Until
from .ve import VE
from .vp import VP

__all__ = [
    "EDM",
    "SDE",
    "VE",
    "VP",
    "Condition",
    "CosineSchedule",
    "Described",
    "Discretized",
    "Evaluations",
    "LinearSchedule",
    "Prior",
    "ReverseSDE",
    "ScaledLinearSchedule",
    "Schedule",
    "Score",
    "SubVP",
    "Until",
    "construct",
    "current_names",
    "describe",
    "expand",
    "integrate",
    "rows",
]
