"""Likelihoods and bounds of samples of a data set, by the settings of a run."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.data import Dataset
from scoresde.data import Samples as Raw
from scoresde.evaluation import GaussianControl, Likelihood
from scoresde.evaluation.dequantization import Dequantization
from scoresde.sde.cautions import silent

from .condition import given, labels_of
from .parts import Parts, cells_of

CONTROL_SAMPLES = 10_000  # training samples to which the Gaussian control variate is fitted


class Evaluator:
    """Scores raw samples of a data set with a model, as `evaluate` in the configuration says.

    Where not given, the data set and the split are those of the run.
    """

    def __init__(
        self, parts: Parts[Any], model: Any, data: Dataset | None = None, split: str | None = None
    ) -> None:
        self.parts, self.model = parts, model
        data = parts.data if data is None else data
        self.labels = labels_of(data, split or parts.cfg.evaluate.split)
        self.cells = cells_of(data)
        self.control_variate = None
        dim = torch.Size(data.shape).numel()
        if parts.likelihood is not None and parts.likelihood.controlled(dim):
            known = parts.data.scale(parts.data.train[:CONTROL_SAMPLES])
            self.control_variate = GaussianControl.fit(parts.sde, known.to(parts.device))

    def __call__(
        self,
        raw: Tensor,
        sample_ids: list[int],
        *,
        dequantization: Dequantization | None = None,
        progress: bool = False,
    ) -> Likelihood:
        """Likelihoods of raw samples by their numbers in the split.

        A dequantization takes the place of that of the run; progress is a bar on a terminal.
        """
        parts, likelihood = self.parts, self.parts.likelihood
        assert likelihood is not None
        if dequantization is not None:
            likelihood = replace(likelihood, dequantization=dequantization)
        with silent():  # `build` has looked at the data of the whole run
            return likelihood(
                parts.sde,
                self._score(sample_ids),
                raw.to(parts.device),
                self.cells,
                control_variate=self.control_variate,
                seed=parts.seed,
                sample_ids=sample_ids,
                progress=progress,
            )

    def bounds(self, raw: Raw, sample_ids: list[int]) -> dict[str, Any]:
        """The variational bounds that the configuration asks for, as entries of result.json."""
        parts = self.parts
        if not parts.bounds.names:
            return {}
        assert self.cells is not None  # `build` refuses bounds of points
        return parts.bounds(
            parts.sde,
            self.model,
            self._score,
            raw,
            self.cells,
            seed=parts.seed,
            sample_ids=sample_ids,
            device=parts.device,
        )

    def _score(self, sample_ids: list[int]) -> Any:
        """The score of the samples of these numbers."""
        return given(
            self.model, None if self.labels is None else self.labels[torch.tensor(sample_ids)]
        )
