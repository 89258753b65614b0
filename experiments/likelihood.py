"""Likelihoods of data by the settings of a run."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde.data import Samples
from scoresde.evaluation import (
    Cells,
    GaussianControl,
    Likelihood,
    Uniform,
    Variational,
    VariationalBound,
    elbo,
    log_likelihood,
    quantized_likelihood,
    variational_bound,
)
from scoresde.evaluation.control import CONTROL_LIMIT
from scoresde.evaluation.dequantization import Dequantization
from scoresde.evaluation.result import join
from scoresde.models import DequantizationFlow
from scoresde.sde import SDE
from scoresde.sde.cautions import silent
from scoresde.training import DequantizationLoss

from .build import Parts, choose_divergence
from .condition import given, labels_of

CONTROL_SAMPLES = 10_000  # training samples whose moments make the Gaussian control


class Evaluator:
    """Scores raw data of a run's data set with its model, as `evaluate` in its configuration says.

    Args:
        parts: Parts of the run.
        model: Trained model.
        labels: Labels of all samples of the split, where the model is told them.
    """

    def __init__(self, parts: Parts, model: Any, labels: Tensor | None = None) -> None:
        self.parts, self.model, self.cfg, self.labels = parts, model, parts.cfg.evaluate, labels
        self.divergence = choose_divergence(self.cfg, torch.Size(parts.data.shape).numel())
        self.control = _control(parts) if self.divergence.stochastic else None
        self.dequantization: str | Dequantization = self.cfg.dequantization
        if parts.dequantizer is not None:
            self.dequantization = Variational(parts.dequantizer)
        data = parts.data
        self.cells = None
        if data.levels is not None and data.range is not None:
            self.cells = Cells(data.levels, *data.range)

    def __call__(self, raw: Tensor, index: list[int], *, progress: bool = False) -> Likelihood:
        """Likelihoods of raw samples, whose numbers in their split are `index`."""
        cfg, parts = self.cfg, self.parts
        settings: dict[str, Any] = {
            "rtol": cfg.rtol,
            "atol": cfg.atol,
            "log_prob_tol": self._log_prob_tol(),
            "method": cfg.method,
            "clock": cfg.clock,
            "eps": cfg.eps,
            "divergence": self.divergence,
            "control": self.control,
            "seed": parts.cfg.seed,
            "index": index,
            "batch_size": cfg.batch_size,
            "give_up": True,
            "progress": progress,
        }
        raw, score = raw.to(parts.device), self._score(index)
        with silent():  # `build` has looked at the data of the whole run
            if self.cells is None:
                return log_likelihood(parts.sde, score, raw, **settings)
            return quantized_likelihood(
                parts.sde,
                score,
                raw,
                self.cells,
                dequantization=self.dequantization,
                samples=cfg.draws,
                importance=cfg.importance,
                **settings,
            )

    def bounds(self, raw: Samples, index: list[int]) -> dict[str, Any]:
        """The variational bounds that the configuration asks for, of the first samples."""
        cfg, found = self.cfg, dict[str, Any]()
        if cfg.elbo:
            print("variational bound of continuous time", flush=True)
            found |= self._bound(elbo, raw, index, terms=cfg.terms).summary()
        if cfg.vlb is not None:
            print(f"variational bound of {cfg.vlb} steps", flush=True)
            chain = {"steps": cfg.vlb, "learned": self._learned()}
            chain["terms"] = cfg.terms if cfg.terms < cfg.vlb - 1 else None
            found |= self._bound(self._chain, raw, index, **chain).summary()
        return found

    def _bound(
        self, kind: Callable[..., VariationalBound], raw: Samples, index: list[int], **settings: Any
    ) -> VariationalBound:
        """A bound of all samples, `batch_size` at once."""
        parts, size, bounds = self.parts, self.cfg.batch_size, list[VariationalBound]()
        bar = tqdm(total=len(index), disable=None, leave=False, unit="sample")
        for first in range(0, len(index), size):
            rows = slice(first, min(first + size, len(index)))
            own = {"seed": parts.cfg.seed, "index": index[rows], "eps": self.cfg.eps}
            k, score = raw[rows].to(parts.device), self._score(index[rows])
            with silent():
                bounds.append(kind(parts.sde, score, k, self.cells, **own, **settings))
            bar.update(len(k))
        bar.close()
        return join(bounds)

    def _log_prob_tol(self) -> float | None:
        """What log p may be off by in a step: bits/dim are a mean over the coordinates."""
        if self.cfg.log_prob_tol is not None or self.cells is None:
            return self.cfg.log_prob_tol
        return self.cfg.rtol * torch.Size(self.parts.data.shape).numel()

    def _score(self, index: list[int]) -> Any:
        """The score of the samples of these numbers."""
        return given(self.model, None if self.labels is None else self.labels[torch.tensor(index)])

    def _learned(self) -> bool:
        """Whether the variance of the steps of the chain is the network's own."""
        share = getattr(self.model, "variance_share", None)
        learned = share is not None and self.parts.cfg.model.get("learned_variance")
        return self.cfg.variance == "learned" or bool(self.cfg.variance is None and learned)

    def _chain(self, sde: SDE, score: Any, *samples: Any, learned: bool, **settings: Any) -> Any:
        """The bound of the chain, with the variance of its steps."""
        variance = score.variance_share if learned else self.cfg.variance or "posterior"
        return variational_bound(sde, score, *samples, variance=variance, **settings)


def compare_dequantizations(
    parts: Parts[DequantizationFlow], flow: DequantizationFlow
) -> dict[str, Any]:
    """The end of a run of task=dequantizer: bits/dim by its flow, and by uniform dequantization."""
    loss, cfg = parts.loss, parts.cfg.evaluate
    assert isinstance(loss, DequantizationLoss)
    raw = getattr(parts.data, cfg.split)[: cfg.likelihood_samples]
    print(f"likelihood of {len(raw)} {cfg.split} samples, by two dequantizations", flush=True)
    evaluator = Evaluator(parts, loss.score, labels_of(parts.data, cfg.split))
    found = {}
    for rule in (Uniform(), Variational(flow)):
        evaluator.dequantization = rule
        found[rule.name] = evaluator(raw, list(range(len(raw))), progress=True).summary()
    uniform = {key: found["uniform"][key] for key in ("bits_per_dim", "bits_per_dim_error")}
    return found["variational"] | {"uniform": uniform}


def _control(parts: Parts) -> GaussianControl | None:
    """The Gaussian of training data, where it is asked for and small enough."""
    if not parts.cfg.evaluate.control or torch.Size(parts.data.shape).numel() > CONTROL_LIMIT:
        return None
    data = parts.data.scale(parts.data.train[:CONTROL_SAMPLES])
    return GaussianControl.fit(parts.sde, data.to(parts.device))
