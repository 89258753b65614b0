"""Fixtures of many tests: each process and chain, and one thread, so that numbers repeat."""

from pathlib import Path

import pytest
import torch

from scoresde.sde import EDM, SDE, VE, VP, CosineSchedule, SubVP

torch.set_num_threads(1)

QUICK: pytest.StashKey[dict[Path, set[str]]] = pytest.StashKey()
"""Names of the quick tests in each folder that was collected."""

PROCESSES: dict[str, SDE] = {
    "vp": VP(),
    "vp_cosine": VP(schedule=CosineSchedule()),
    "subvp": SubVP(),
    "ve": VE(),
    "ve_narrow": VE(0.02, 5.0),
    "edm": EDM(),
}
CHAINS: dict[str, SDE] = {
    "ddpm": VP().discretize(1000),
    "ddpm_cosine": VP(schedule=CosineSchedule()).discretize(200),
    "subvp_chain": SubVP().discretize(300),
    "ncsn": VE().discretize(232),
    "edm_chain": EDM().discretize(220),
}


@pytest.fixture(params=list(PROCESSES))
def process(request) -> SDE:
    """Each process in continuous time."""
    return PROCESSES[request.param]


@pytest.fixture(params=[*PROCESSES, *CHAINS])
def sde(request) -> SDE:
    """Each process and each chain."""
    return (PROCESSES | CHAINS)[request.param]


@pytest.fixture
def generator() -> torch.Generator:
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def undrawn(monkeypatch):
    """Runs that draw no pictures of points, which take most of the time of small ones."""
    from scoresde.experiments import job, samples

    monkeypatch.setattr(samples, "_save_points", lambda *_: None)
    monkeypatch.setattr(job, "save_curve", lambda folder: None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session, items):
    """Mark `quick` the first case of every test that is not marked `slow`."""
    seen, folders = set(), dict[Path, set[str]]()
    for item in items:
        name = item.nodeid.partition("[")[0]
        quick = name not in seen and item.get_closest_marker("slow") is None
        seen.add(name)
        marked = folders.setdefault(item.path.parent, set())
        if quick:
            item.add_marker("quick")
            marked.add(name)
    session.config.stash[QUICK] = folders


def pytest_terminal_summary(terminalreporter, config):
    """Print the measured orders after `pytest -m orders`."""
    if config.option.markexpr != "orders":
        return
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for key, value in getattr(report, "user_properties", [])
        if key == "order"
    ]
    terminalreporter.section("convergence orders")
    for process, name, orders, error in sorted(rows, key=lambda row: (row[1], row[0])):
        slopes = "  ".join(f"{order:5.2f}" for order in orders)
        terminalreporter.write_line(f"{name:30s} {process:10s} {slopes:28s} last error {error:.1e}")
