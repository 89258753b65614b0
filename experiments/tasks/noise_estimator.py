"""task=noise_estimator: train a network that tells the noise level from a state alone."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from scoresde.data import Dataset
from scoresde.data.base import stream
from scoresde.evaluation.plots import save_estimates
from scoresde.models import NoiseLevelEstimator
from scoresde.models.names import inner
from scoresde.sde import SDE, describe
from scoresde.training import Loss, NoiseLevelLoss

from ..claim import Claim
from ..model import make
from ..parts import Parts
from ..record import Record
from ..settings import asked
from .base import Task

BINS = 5  # equal parts of [λ(T), λ(ε)]


class NoiseEstimator(Task):
    """Train an estimator of λ, and measure its errors on data that were held out."""

    name = takes = "noise_estimator"
    groups = ("data", "sde", "estimator")
    model = ("sde", "estimator", "data.range")
    training = ("sde", "estimator", "data", "train", "seed")
    uses_prior = False

    def loss(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> Loss:
        """The error of λ̂; see `Task.loss`."""
        return NoiseLevelLoss(sde)

    def network(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> nn.Module:
        """The estimator; see `Task.network`."""
        return make(cfg.estimator, sde=sde, shape=data.shape, data_range=data.range)

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """The description of the estimator."""
        return {"description": describe(inner(model))}

    @classmethod
    def current(cls, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """The configuration with a description, which old checkpoints do not have."""
        if "description" in saved:
            return saved
        section, target = saved["estimator"], {"_target_": "scoresde.models.NoiseLevelEstimator"}
        leaf = target | {key: section[key] for key in ("width", "depth")}
        facts = {"sde": saved["sde"], "data_range": saved["data"].get("range")}
        description = leaf | facts | {"shape": section["shape"]}
        return {**saved, "estimator": leaf, "description": description}

    @torch.no_grad()
    def finish(
        self, parts: Parts[Any], model: NoiseLevelEstimator, record: Record, claim: Claim
    ) -> bool:
        """Errors of λ̂ on noisy test samples as entries of result.json, and noise_level.png.

        λ is stratified, so that each of the bins, equal parts of its range, holds as many samples.
        """
        data = parts.data
        n = BINS * math.ceil(parts.sampling.count / BINS)
        generator = stream("noise level", parts.seed)
        share = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
        raw = data.test[torch.randint(len(data.test), (n,), generator=generator)]
        x0 = data.scale(raw, generator).to(parts.device)
        x, lam = NoiseLevelLoss(parts.sde).perturb(
            x0, share.to(parts.device), parts.generator("noise level")
        )
        estimates = torch.cat([model(batch) for batch in x.split(parts.sampling.batch_size)])
        squares = (estimates - lam).square()
        ends = torch.linspace(*model.bounds, BINS + 1, dtype=torch.float64).tolist()
        bins = squares.reshape(BINS, -1).mean(1).sqrt().tolist()
        result = {
            "rmse": squares.mean().sqrt().item(),
            "rmse_bins": [
                {"from": low, "to": high, "rmse": rmse}
                for low, high, rmse in zip(ends, ends[1:], bins, strict=False)
            ],
            "estimates": n,
        }
        record.add(result)
        print(_summary(result, record.folder), flush=True)

        def picture() -> None:
            save_estimates(lam, estimates, record.folder / "noise_level.png", "log(α/σ)")

        record.attempt("pictures", picture)
        return True


def _summary(result: dict[str, Any], folder: Path) -> str:
    """The errors, and the command that samples with the estimator."""
    lines = [f"RMSE of λ on {result['estimates']} held-out samples: {result['rmse']:.3f}"]
    lines += [
        f"  λ from {part['from']:6.2f} to {part['to']:6.2f}: {part['rmse']:.3f}"
        for part in result["rmse_bins"]
    ]
    kept = ("sde", "data", "model", "experiment")
    same = [o for o in asked() if o.startswith(kept)]
    command = ["python", "experiments/run.py", *same, "sampler=noise_adaptive"]
    command.append(f"sampler.estimator={folder}")
    return "\n".join([*lines, "use it with", f"  {shlex.join(command)} checkpoint=RUN"])
