"""Warnings of a run, as sentences on the terminal."""

import sys
import warnings

from scoresde.data import Dataset
from scoresde.sde import SDE
from scoresde.sde.cautions import caution_width

SAMPLES = 1000  # most training samples that are examined
NUMBERS = 4_000_000  # most numbers that they hold


def caution_data(sde: SDE, data: Dataset) -> None:
    """Say, each in a line, where the training data of a run are wider than its prior.

    Data without training samples are not looked at.
    """
    count = min(len(data.train), SAMPLES, max(16, NUMBERS // max(1, data.train[:1].numel())))
    if not count:
        return
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        caution_width(sde, data.scale(data.train[:: len(data.train) // count]))
    for warning in given:
        print(f"warning: {warning.message}", file=sys.stderr, flush=True)
