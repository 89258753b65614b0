"""The interval of the data and its cells, which data sets and likelihoods must state alike."""

import pytest
import torch

from scoresde.data import GreyLevels
from scoresde.sde.data_range import Cells, DataRange

RANGES = [(-1.0, 1.0), (0.0, 1.0), (-0.37, 2.9), (10.0, 11.0)]


@pytest.mark.parametrize("ends", RANGES)
def test_the_ends_are_seen_as_minus_one_and_one(ends):
    span = DataRange.of(list(ends))
    seen = [(end - span.middle) / span.half for end in ends]
    assert seen == pytest.approx([-1, 1], abs=1e-14)


def test_data_of_no_fixed_range_stay_as_they_are():
    assert (DataRange.of(None).middle, DataRange.of(None).half) == (0.0, 1.0)


@pytest.mark.parametrize("ends", [(1.0, 1.0), (1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_impossible_intervals_are_named(ends):
    with pytest.raises(ValueError, match="data_range must be"):
        DataRange.of(ends)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("ends", RANGES)
def test_data_sets_and_likelihoods_have_the_same_cells(ends, levels):
    grey, cells = GreyLevels(ends, levels), Cells(levels, *ends)
    assert grey.cell == cells.width
    k = torch.arange(levels, dtype=torch.uint8).view(1, 1, 1, -1)
    for x in (cells.centre(k), grey.scale(k, None).double()):
        assert torch.equal(cells.value(x), k.double()) and torch.equal(grey.quantize(x), k)
    # The points are just inside both edges, by more than the rounding of numbers near ten.
    for u in (1e-9, 1 - 1e-9):
        assert torch.equal(cells.value(cells.point(k, u)), k.double())
