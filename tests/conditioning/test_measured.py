"""The measurements of docs/conditioning.md: their engine by known figures, and their tables."""

import pytest

from benchmarks.conditioning import NAMES, PAGE, PARTS, part
from benchmarks.posterior_closed_forms import guidance
from benchmarks.posterior_methods import METHODS
from benchmarks.posterior_moments import distance
from benchmarks.posteriors import PROBLEMS, pooled_exactly

BY_NAME = {method.name: method for method in METHODS}


@pytest.mark.parametrize(
    ("name", "problem", "level"),
    [
        ("exact score of the posterior", "G0", 0.199),
        ("MMPS", "G1", 0.197),
        ("DDRM", "G0", 0.389),
        ("DDNM", "G0", 0.339),
        ("ΠGDM, published", "G1", 0.244),
        ("replacement", "G0", 0.398),
    ],
)
def test_distances_without_random_numbers(name, problem, level):
    """Those of 20 steps are known to 2 % or two units of the last digit.

    They were found with the noise of σ/α = 0.01 in known pixels, 0.021 of which is gone here.
    """
    found = distance(BY_NAME[name], PROBLEMS[problem], 20)
    assert found == pytest.approx(level, rel=0.02, abs=2e-3)


def test_a_pooling_that_is_known_exactly():
    """The control's error is that of its steps, and replacement meets the measurement."""
    problem = pooled_exactly()
    assert problem.std == 0
    assert distance(BY_NAME["replacement"], problem, 20) < 1.1 * 0.2


def test_guided_variances_against_closed_forms(monkeypatch):
    """The closed forms of the flow, the SDE and the tilt at w = 4."""
    import benchmarks.posterior_closed_forms as module

    monkeypatch.setattr(module, "_variance", lambda *_: 0.0)
    monkeypatch.setattr(module, "_weighted", lambda *_: 0.0)
    last = guidance().splitlines()[-1].split("|")
    assert [cell.split(",")[0].strip() for cell in last[2:5]] == ["0.0625", "0.1417", "0.2000"]


def measured(name):
    text = PAGE.read_text()
    assert text.count(part(name)) == 1
    return text.split(part(name))[1].partition("<!-- end -->\n")[0]


@pytest.mark.parametrize("name", PARTS)
def test_the_page_has_every_part(name):
    assert measured(name).strip()


def test_the_page_has_every_method():
    """Each in the table of mixtures, for each number of steps, and the affine ones in the other."""
    lines = measured("mixtures").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    found = {(cells[0].removeprefix("| "), cells[1]) for cells in rows}
    assert {(m.name, str(n)) for m in METHODS for n in m.lengths} <= found
    assert all(len(cells) == 4 + len(NAMES) for cells in rows)
    text = measured("gaussian")
    assert all(f"| {method.name} |" in text for method in METHODS if method.affine)
