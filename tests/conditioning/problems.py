"""The problems with exact posteriors, which the benchmarks measure too."""

from benchmarks.posteriors import (
    PROBLEMS,
    Problem,
    floors,
    gaussian_field,
    left_half,
    mixture_field,
    plane,
    pooling,
    push,
    shares,
    sliced_distance,
    wasserstein,
)

__all__ = [
    "PROBLEMS",
    "Problem",
    "floors",
    "gaussian_field",
    "left_half",
    "mixture_field",
    "plane",
    "pooling",
    "push",
    "shares",
    "sliced_distance",
    "wasserstein",
]
