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
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scoresde.data import Dataset
from scoresde.evaluation import Likelihood, plots
from scoresde.evaluation.result import join
from scoresde.evaluation.typicality import auroc, typicality
from scoresde.models import ScoreModel
from scoresde.sde import current_names
from scoresde.training import checkpoint

from .build import Parts
from .claim import Claim
from .condition import labels_of
from .identity import data_identity
from .likelihood import Evaluator
from .record import Record, complete, save_arrays
from .settings import differences

# Settings that change no part; the bounds are computed anew each time.
FREE = (
    *("shard", "shards", "samples", "pictures", "frames", "quality", "likelihood"),
    *("vlb", "elbo", "terms", "variance"),
)
COLUMNS = ("log_prob", "nfe", "solver_error", "probe_error", "dequantization_error")


def score_split(parts: Parts, model: ScoreModel, record: Record, claim: Claim) -> bool:
    """Score what is missing of the split, and join it into entries of result.json.

    Returns:
        Whether this process wrote the result; else other shards have parts to do, or are at it.
    """
    folder = record.folder
    split = parts.cfg.evaluate.split
    own = _Split(parts, model, folder / "likelihood", parts.data, split)
    splits = [own]
    if parts.against is not None:
        name = f"against {parts.against.name}"
        splits.append(_Split(parts, model, folder / "against", parts.against, "test", name))
    for one in splits:
        one.work()
    missing = sum(len(one.missing()) for one in splits)
    if missing:
        print(f"{missing} parts are left to other shards", flush=True)
        return False
    if not claim.alone("likelihood/.join") or complete(folder):
        print("all parts are there, and another shard writes the result", flush=True)
        return False
    likelihood, *others = [one.join() for one in splits]
    _save(likelihood, folder / "likelihood.npz")
    result = likelihood.summary()
    if parts.against is not None:
        result["against"] = _compare(likelihood, others[0], parts.against.name)
    record.add(result)
    bounds = own.evaluator.bounds
    record.attempt("bounds", lambda: bounds(own.raw, list(range(own.total))))
    unit = "bits/dim" if likelihood.cells is not None else "log p (nats)"
    names = [parts.data.name, *(one.name for one in splits[1:])]
    shown = zip(names, [likelihood, *others], strict=True)
    values = {name: _values(one)[one.log_prob.isfinite()] for name, one in shown}

    def draw() -> None:
        if lost := [name for name, known in values.items() if len(known) == 0]:
            raise RuntimeError(f"no sample of {lost[0]} has a likelihood: the model is not finite")
        plots.save_histograms(values, folder / "likelihood.png", unit)

    record.attempt("pictures", draw)
    return True


class _Split:
    """Raw samples, cut into parts of a batch, with a file for each."""

    def __init__(
        self,
        parts: Parts,
        model: ScoreModel,
        folder: Path,
        data: Dataset,
        split: str,
        name: str | None = None,
    ) -> None:
        cfg = parts.cfg.evaluate
        self.evaluator, self.folder = Evaluator(parts, model, labels_of(data, split)), folder
        self.raw = getattr(data, split)  # of which a part is read at a time
        self.total = min(len(self.raw), cfg.likelihood_samples or len(self.raw))
        self.name, self.shard, self.shards = name or split, cfg.shard, cfg.shards
        starts = range(0, self.total, cfg.batch_size)
        self.parts = [range(i, min(i + cfg.batch_size, self.total)) for i in starts]

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
            done.append(_values(likelihood).cpu())
            bar.update(len(part))
            shown = _mean_and_error(torch.cat(done))
            bar.set_postfix_str(shown)
            if bar.disable:
                print(f"{part.stop}/{self.total}  {shown}", flush=True)
        bar.close()

    def missing(self) -> list[range]:
        """Parts of all shards that are not there, or not whole."""
        return [part for part in self.parts if self._load(part) is None]

    def join(self) -> Likelihood:
        """All parts as one likelihood."""
        loaded = {part: self._load(part) for part in self.parts}
        lost = [str(self._path(part)) for part, likelihood in loaded.items() if likelihood is None]
        if lost:
            raise RuntimeError(f"{', '.join(lost)} can no longer be read; repeat the command")
        return join([likelihood for likelihood in loaded.values() if likelihood is not None])

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
            print(f"{path} cannot be read ({error}); its shard computes it again", flush=True)
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
    save_arrays(path, index=index, facts=np.array(facts), **columns)


def check_settings(parts: Parts, weights: Path, folder: Path) -> None:
    """Write what the numbers in a run's folder depend on, or refuse to mix them with others.

    Args:
        parts: Parts of the run.
        weights: File of the checkpoint.
        folder: The run's folder.

    Raises:
        ValueError: The folder holds likelihoods by other settings.
    """
    whole = parts.config
    evaluate = {key: value for key, value in whole["evaluate"].items() if key not in FREE}
    # The files themselves: a run may have trained on since a part was scored.
    mine: dict[str, Any] = {"weights": checkpoint.digest(weights), "evaluate": evaluate}
    if parts.dequantizer is not None:
        flow, _ = checkpoint.find(Path(parts.cfg.evaluate.dequantizer))
        mine["flow"] = checkpoint.digest(flow)
    mine |= {key: whole[key] for key in ("sde", "model", "data", "against", "seed")}
    if not whole["checkpoint_ema"]:  # one file has both sets of weights
        mine["checkpoint_ema"] = False
    # Their content: files may have come or gone under the same settings.
    mine["samples"] = data_identity(parts.data)
    if parts.against is not None:
        mine["samples against"] = data_identity(parts.against)
    path = folder / "likelihood" / "settings.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".settings.{uuid4().hex}.tmp"
    try:
        temporary.write_text(json.dumps(mine, indent=2, sort_keys=True) + "\n")
        os.link(temporary, path)  # whole, and by the first of several shards alone
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
    theirs, own = current_names(json.loads(path.read_text())), json.loads(json.dumps(mine))
    # Of a time when nobody noted them.
    unknown = () if "samples" in theirs else ("samples", "samples against")
    found = differences(theirs, own, lambda key: key.partition(".")[0] not in unknown)
    different = sorted({key.partition(".")[0] for key in found} | _other_weights(theirs, own))
    if different:
        raise ValueError(
            f"{folder} holds likelihoods by other settings ({', '.join(different)}); "
            "repeat the command that made them, or use another hydra.run.dir"
        )


def _other_weights(theirs: dict[str, Any], own: dict[str, Any]) -> set[str]:
    """The key by which raw weights are told from averaged ones, where it differs."""
    key = "checkpoint_ema"
    return set() if theirs.get(key) == own.get(key) else {key}


def _values(likelihood: Likelihood) -> Tensor:
    """Bits/dim of quantized data, nats of points."""
    return likelihood.log_prob if likelihood.cells is None else likelihood.bits_per_dim


def _mean_and_error(values: Tensor) -> str:
    values = values[values.isfinite()]
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{values.mean().item():.4f} ± {error:.4f}"


def _compare(likelihood: Likelihood, other: Likelihood, name: str) -> dict[str, Any]:
    """How the model tells its own data from others: 1 where all others score as more foreign.

    By likelihood, less likely is more foreign; by typicality, further from the mean.
    """
    inside, outside = (
        -one.log_prob[one.log_prob.isfinite()] / one.dim for one in (likelihood, other)
    )
    # What is typical is told by every other sample, and held against the rest.
    known, held = inside[::2], inside[1::2]
    typical = [typicality(v, known) for v in (held, outside)]
    return {
        "data": name,
        "mean": _values(other)[other.log_prob.isfinite()].mean().item(),
        "samples": len(outside),
        "auroc_likelihood": auroc(inside, outside),
        "auroc_typicality": auroc(*typical) if len(held) else math.nan,
    }
