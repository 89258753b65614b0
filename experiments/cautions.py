"""Warnings of a run, as sentences on the terminal."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from scoresde.data import Dataset
from scoresde.sde import SDE
from scoresde.sde.cautions import caution_width

SAMPLES = 1000  # most training samples that are examined
NUMBERS = 4_000_000  # most numbers that they hold


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
    """Print each warning as one line, without the line of code that raised it."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        yield
    for warning in given:
        print(f"warning: {warning.message}", file=sys.stderr, flush=True)
