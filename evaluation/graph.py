"""Derivatives within `torch.inference_mode()`, which records no graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor

from scoresde.sde import Score
from scoresde.sde.cautions import check_graph
from scoresde.sde.precision import module_of


@contextmanager
def derivatives_allowed() -> Iterator[None]:
    """Leave inference mode within the context; graphs are still recorded only on demand."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            yield
    else:
        yield


def ordinary(x: Tensor) -> Tensor:
    """x as a tensor that a graph can contain: a copy if x was made within inference mode."""
    return x.clone() if x.is_inference() else x


def check_differentiable(score: Score, x: Tensor, kept: bool) -> None:
    """Refuse derivatives that inference mode makes impossible, and warn of a graph that is dropped.

    They are impossible where the graph is to be `kept` within inference mode, or the network was
    built within it.
    """
    check_graph("x", x, kept, "the likelihood drops", "call it")
    module = module_of(score)
    if module is not None and any(
        tensor.is_inference() for tensor in chain(module.parameters(), module.buffers())
    ):
        raise ValueError(
            "the network was built or loaded within torch.inference_mode(), and its score cannot "
            "be differentiated; build or load it outside"
        )
