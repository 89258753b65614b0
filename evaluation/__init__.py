"""Evaluation: likelihood, sample quality, plots and reports."""

from .likelihood import Likelihood, bits_per_dim, log_likelihood
from .metrics import maximum_mean_discrepancy, sample_quality
from .report import result_table, results_table

__all__ = [
    "Likelihood",
    "bits_per_dim",
    "log_likelihood",
    "maximum_mean_discrepancy",
    "result_table",
    "results_table",
    "sample_quality",
]
