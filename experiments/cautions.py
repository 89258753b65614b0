"""Warnings of a run, as sentences on the terminal."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from scoresde.data import Dataset
from scoresde.sde import SDE
from scoresde.sde.cautions import caution_width

SAMPLES = 1000  # training samples that are looked at, if they are small
NUMBERS = 4_000_000  # and how many numbers of larger ones


def caution_data(sde: SDE, data: Dataset) -> None:
    """Say where the training data of a run are wider than the prior of its process.

    Args:
        sde: Process.
        data: Data set; one without training samples is not looked at.
    """
    count = min(len(data.train), SAMPLES, max(16, NUMBERS // max(1, data.train[:1].numel())))
    if count:
        with as_sentences():
            caution_width(sde, data.scale(data.train[:: len(data.train) // count]))


@contextmanager
def as_sentences() -> Iterator[None]:
    """Print warnings as one line each, in place of the line of code that gave them."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        yield
    for warning in given:
        print(f"warning: {warning.message}", file=sys.stderr, flush=True)
