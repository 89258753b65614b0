"""`make quick` runs a case of every test that is not slow, and some tests of every folder."""

import pytest

from tests.conftest import QUICK
from tests.places import ROOT


def test_every_folder_that_was_collected_has_quick_tests(request):
    """In a run of all tests, these are all folders below tests/ that hold any."""
    folders = request.config.stash[QUICK]
    assert folders[ROOT / "tests"]
    for folder, names in folders.items():
        assert names, f"no test of {folder} is quick; mark fewer of them slow"


@pytest.mark.parametrize("case", [0, 1])
def test_only_the_first_case_is_quick(request, case):
    """The second case is quick if it was chosen alone, by its full name."""
    quick = request.node.get_closest_marker("quick") is not None
    chosen = [item for item in request.session.items if item.originalname in request.node.name]
    assert quick is (case == 0 or len(chosen) == 1)


@pytest.mark.slow
def test_a_slow_test_is_not_quick(request):
    assert request.node.get_closest_marker("quick") is None
