"""Evaluation: likelihood and its bounds, sample quality, plots and reports."""

from scoresde.sde.data_range import Cells

from .bounds import Bounds
from .calibration import expected_calibration_error
from .control import GaussianControl
from .dequantization import TruncatedNormal, Uniform, Variational
from .divergence import Exact, ExactOrHutchinson, Hutchinson, HutchPlusPlus
from .flow import FlowLikelihood
from .generative_classifier import ClassPosterior, class_posterior
from .likelihood import log_likelihood
from .metrics import maximum_mean_discrepancy, sample_quality
from .quality import ClassifierQuality
from .quantized import quantized_likelihood
from .report import result_table, results_table
from .result import Likelihood, VariationalBound
from .variational import elbo, variational_bound

__all__ = [
    "Bounds",
    "Cells",
    "ClassPosterior",
    "ClassifierQuality",
    "Exact",
    "ExactOrHutchinson",
    "FlowLikelihood",
    "GaussianControl",
    "HutchPlusPlus",
    "Hutchinson",
    "Likelihood",
    "TruncatedNormal",
    "Uniform",
    "Variational",
    "VariationalBound",
    "class_posterior",
    "elbo",
    "expected_calibration_error",
    "log_likelihood",
    "maximum_mean_discrepancy",
    "quantized_likelihood",
    "result_table",
    "results_table",
    "sample_quality",
    "variational_bound",
]
