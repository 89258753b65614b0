"""What the samples of a run are conditioned on, one class for each choice of `conditioning`."""

from .base import Bound, Conditioning, Unconditional
from .degradations import (
    JPEG,
    Clip,
    Colorize,
    Compress,
    Deblur,
    Fourier,
    Inpaint,
    PhaseRetrieval,
    Superres,
)
from .editing import Inversion, SDEdit, Translation
from .guidance import Autoguidance, Classifier, ClassifierFree, Guidance
from .methods import LowFrequencies, RePaint, Replacement
from .restoration import Restoration

__all__ = [
    "JPEG",
    "Autoguidance",
    "Bound",
    "Classifier",
    "ClassifierFree",
    "Clip",
    "Colorize",
    "Compress",
    "Conditioning",
    "Deblur",
    "Fourier",
    "Guidance",
    "Inpaint",
    "Inversion",
    "LowFrequencies",
    "PhaseRetrieval",
    "RePaint",
    "Replacement",
    "Restoration",
    "SDEdit",
    "Superres",
    "Translation",
    "Unconditional",
]
