"""The end of a run of task=noise_estimator: how well λ is told on data that were held out."""

import math
import shlex
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from scoresde.data.base import stream
from scoresde.evaluation.plots import save_estimates
from scoresde.models import NoiseLevelEstimator
from scoresde.training import NoiseLevelLoss

from .build import Parts
from .record import Record

BINS = 5  # equal parts of [λ(T), λ(ε)]


@torch.no_grad()
def measure(
    parts: Parts[NoiseLevelEstimator], estimator: NoiseLevelEstimator, record: Record
) -> None:
    """Errors of λ̂ on noisy test samples as entries of result.json, and noise_level.png.

    λ is stratified, so that each of the bins, equal parts of its range, holds as many samples.
    """
    cfg, data = parts.cfg.evaluate, parts.data
    n = BINS * math.ceil(cfg.samples / BINS)
    generator = stream("noise level", parts.cfg.seed)
    share = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    raw = data.test[torch.randint(len(data.test), (n,), generator=generator)]
    x0 = data.scale(raw, generator).to(parts.device)
    x, lam = NoiseLevelLoss(parts.sde).perturb(
        x0, share.to(parts.device), parts.generator("noise level")
    )
    estimates = torch.cat([estimator(batch) for batch in x.split(cfg.batch_size)])
    squares = (estimates - lam).square()
    ends = torch.linspace(*estimator.bounds, BINS + 1, dtype=torch.float64).tolist()
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

    def draw() -> None:
        save_estimates(lam, estimates, record.folder / "noise_level.png", "log(α/σ)")

    record.attempt("pictures", draw)


def _summary(result: dict[str, Any], folder: Path) -> str:
    """The errors, and the command that samples with the estimator."""
    lines = [f"RMSE of λ on {result['estimates']} held-out samples: {result['rmse']:.3f}"]
    lines += [
        f"  λ from {part['from']:6.2f} to {part['to']:6.2f}: {part['rmse']:.3f}"
        for part in result["rmse_bins"]
    ]
    kept = ("sde", "data", "model", "experiment")
    same = [o for o in HydraConfig.get().overrides.task if o.startswith(kept)]
    command = ["python", "experiments/run.py", *same, "sampler=noise_adaptive"]
    command.append(f"sampler.estimator={folder}")
    return "\n".join([*lines, "use it with", f"  {shlex.join(command)} checkpoint=RUN"])
