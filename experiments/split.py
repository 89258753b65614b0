"""task=likelihood: a whole split scored, in parts that outlive an interruption, and in shards.

Every part is a file of its own in the run's folder, written atomically and named by its first
sample. A command repeated in the same folder does what is missing; several processes, each with its
`evaluate.shard`, share the work. Whoever finds all parts there writes the result.
"""

import json
import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evaluation import Likelihood, plots
from evaluation.result import join
from evaluation.typicality import auroc, typicality
from models import ScoreModel

from .build import Parts
from .likelihood import Evaluator

# Settings that change no number.
FREE = ("shard", "shards", "samples", "pictures", "frames", "quality", "likelihood")
COLUMNS = ("log_prob", "nfe", "solver_error", "probe_error", "dequantization_error")


def score_split(parts: Parts, model: ScoreModel, folder: Path) -> dict[str, Any]:
    """Score what is missing of the split, and join it; entries of result.json.

    Returns:
        With `missing` > 0, the number of parts that other shards have still to do, no likelihood.
    """
    own = _Split(parts, model, folder / "likelihood", getattr(parts.data, parts.cfg.evaluate.split))
    splits = {parts.data.name: own}
    if parts.against is not None:
        splits[parts.against.name] = _Split(
            parts, model, folder / "against", parts.against.test, f"against {parts.against.name}"
        )
    for split in splits.values():
        split.work()
    missing = sum(len(split.missing()) for split in splits.values())
    if missing:
        return {"missing": missing, "seconds": {}}
    found = {name: split.join() for name, split in splits.items()}
    result = found[parts.data.name].summary() | {"seconds": {}}
    result |= own.evaluator.bounds(own.raw, list(range(len(own.raw))))
    values = {name: _values(likelihood) for name, likelihood in found.items()}
    unit = "bits/dim" if own.evaluator.cells is not None else "log p (nats)"
    plots.save_histograms(values, folder / "likelihood.png", unit)
    _save(found[parts.data.name], folder / "likelihood.npz")
    if parts.against is not None:
        result["against"] = _compare(values, parts.data.name, parts.against.name)
    return result


class _Split:
    """Raw samples, cut into parts of a batch, with a file for each."""

    def __init__(
        self, parts: Parts, model: ScoreModel, folder: Path, raw: Tensor, name: str | None = None
    ) -> None:
        cfg = parts.cfg.evaluate
        self.evaluator, self.folder = Evaluator(parts, model), folder
        self.raw = raw[: cfg.likelihood_samples]
        self.name, self.shard, self.shards = name or cfg.split, cfg.shard, cfg.shards
        starts = range(0, len(self.raw), cfg.batch_size)
        self.parts = [range(i, min(i + cfg.batch_size, len(self.raw))) for i in starts]

    def work(self) -> None:
        """Do the parts of this shard that are not there."""
        self.folder.mkdir(exist_ok=True)
        mine = self.parts[self.shard :: self.shards]
        sizes = sum(len(part) for part in mine)
        print(f"likelihood of {sizes} {self.name} samples in {len(mine)} parts", flush=True)
        bar = tqdm(total=sizes, disable=None, leave=False, unit="sample")
        done: list[Tensor] = []
        for part in mine:
            likelihood = self._load(part)
            if likelihood is None:
                likelihood = self.evaluator(self.raw[part.start : part.stop], list(part))
                _save(likelihood, self._path(part))
            done.append(_values(likelihood))
            bar.update(len(part))
            shown = _mean_and_error(torch.cat(done))
            bar.set_postfix_str(shown)
            if bar.disable:
                print(f"{part.stop}/{len(self.raw)}  {shown}", flush=True)
        bar.close()

    def missing(self) -> list[range]:
        """Parts of all shards that are not there."""
        return [part for part in self.parts if not self._path(part).exists()]

    def join(self) -> Likelihood:
        """All parts as one likelihood."""
        loaded = [self._load(part) for part in self.parts]
        return join([part for part in loaded if part is not None])

    def _path(self, part: range) -> Path:
        return self.folder / f"{part.start:07d}.npz"

    def _load(self, part: range) -> Likelihood | None:
        """A part that is there and whole; a file that is not is done again."""
        path = self._path(part)
        if not path.exists():
            return None
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                columns = {name: torch.from_numpy(file[name]) for name in COLUMNS}
                facts: dict[str, Any] = json.loads(str(file["facts"]))
                numbers = file["index"].tolist()
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            print(f"{path} cannot be read ({error}); it is computed again", flush=True)
            return None
        if numbers != list(part):
            return None
        return Likelihood(**(facts | columns), latent=None, cells=self.evaluator.cells)


def _save(likelihood: Likelihood, path: Path) -> None:
    """Write one value for each sample, and what they are, as an npz file without pickles."""
    first = int(path.stem) if path.stem.isdigit() else 0
    columns = {name: getattr(likelihood, name).cpu().numpy() for name in COLUMNS}
    if likelihood.cells is not None:
        columns["bits_per_dim"] = likelihood.bits_per_dim.cpu().numpy()
    known = {field.name for field in fields(Likelihood)} - {*COLUMNS, "latent", "cells"}
    facts = json.dumps({name: getattr(likelihood, name) for name in sorted(known)})
    index = np.arange(first, first + len(likelihood.log_prob))
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        np.savez(file, index=index, facts=np.array(facts), **columns)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def check_settings(parts: Parts, folder: Path) -> None:
    """Write what the numbers in a run's folder depend on, or refuse to mix them with others.

    Raises:
        ValueError: The folder holds likelihoods by other settings.
    """
    whole = parts.config
    evaluate = {key: value for key, value in whole["evaluate"].items() if key not in FREE}
    mine = {"checkpoint": str(Path(parts.cfg.checkpoint).resolve()), "evaluate": evaluate}
    mine |= {key: whole[key] for key in ("sde", "model", "data", "against", "seed")}
    path = folder / "likelihood" / "settings.json"
    if path.exists():
        theirs = json.loads(path.read_text())
        different = [
            key
            for key in mine
            if json.dumps(theirs.get(key), sort_keys=True) != json.dumps(mine[key], sort_keys=True)
        ]
        if different:
            raise ValueError(
                f"{folder} holds likelihoods by other settings ({', '.join(different)}); "
                "repeat the command that made them, or use another hydra.run.dir"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".settings.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(mine, indent=2, sort_keys=True) + "\n")
    os.replace(temporary, path)


def _values(likelihood: Likelihood) -> Tensor:
    """Bits/dim of quantized data, nats of points."""
    return likelihood.log_prob if likelihood.cells is None else likelihood.bits_per_dim


def _mean_and_error(values: Tensor) -> str:
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{values.mean().item():.4f} ± {error:.4f}"


def _compare(values: dict[str, Tensor], own: str, other: str) -> dict[str, Any]:
    """How the model tells its own data from others, by likelihood and by typicality."""
    inside, outside = values[own], values[other]
    half = len(inside) // 2  # what is typical is told by one half and held against the other
    scores = [typicality(v, inside[:half]) for v in (inside[half:], outside)]
    return {
        "data": other,
        "mean": outside.mean().item(),
        "samples": len(outside),
        "auroc_likelihood": auroc(inside, outside),
        "auroc_typicality": auroc(*scores),
    }
