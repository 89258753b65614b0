"""Evaluation: likelihood and its bounds, sample quality, plots and reports."""

from .control import GaussianControl
from .dequantization import Cells, TruncatedNormal, Uniform, Variational
from .divergence import Exact, Hutchinson, HutchPlusPlus
from .likelihood import log_likelihood
from .metrics import maximum_mean_discrepancy, sample_quality
from .quantized import quantized_likelihood
from .report import result_table, results_table
from .result import Likelihood, VariationalBound
from .variational import elbo, variational_bound

__all__ = [
    "Cells",
    "Exact",
    "GaussianControl",
    "HutchPlusPlus",
    "Hutchinson",
    "Likelihood",
    "TruncatedNormal",
    "Uniform",
    "Variational",
    "VariationalBound",
    "elbo",
    "log_likelihood",
    "maximum_mean_discrepancy",
    "quantized_likelihood",
    "result_table",
    "results_table",
    "sample_quality",
    "variational_bound",
]
