"""What many tests share: one of each process, and one thread, so that numbers repeat."""

import pytest
import torch

from sde import SDE, VE, VP, CosineSchedule, SubVP

torch.set_num_threads(1)

PROCESSES: dict[str, SDE] = {
    "vp": VP(),
    "vp_cosine": VP(schedule=CosineSchedule()),
    "subvp": SubVP(),
    "ve": VE(),
    "ve_narrow": VE(0.02, 5.0),
}
CHAINS: dict[str, SDE] = {
    "ddpm": VP().discretize(1000),
    "ddpm_cosine": VP(schedule=CosineSchedule()).discretize(200),
    "subvp_chain": SubVP().discretize(300),
    "ncsn": VE().discretize(232),
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
