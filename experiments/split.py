"""The likelihood of a whole split, in parts that survive an interruption, and in shards.

Each part is a file in the run's folder, written atomically and named by its first sample. A command
that is repeated in the same folder computes the missing parts; several processes share the work,
each with its own `task.shard`. The process that finds all parts writes the result.
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
from scoresde.evaluation.result import join, mean_and_error
from scoresde.evaluation.typicality import auroc, typicality
from scoresde.models import ScoreModel
from scoresde.training import checkpoint

from . import old
from .claim import Claim
from .identity import data_identity
from .likelihood import Evaluator
from .parts import Parts
from .record import Record, complete, save_arrays
from .settings import differences

COLUMNS = ("log_prob", "nfe", "solver_error", "probe_error", "dequantization_error")


def score_split(
    parts: Parts[Any], model: ScoreModel, record: Record, claim: Claim, shard: int, shards: int
) -> bool:
    """Score what is missing of the split, and join it into entries of result.json.

    Returns:
        Whether this process wrote the result; else other shards still have parts to compute.
    """
    folder, other = record.folder, parts.ood_data
    split = parts.cfg.evaluate.split
    own = _Split(parts, model, folder / "likelihood", parts.data, split)
    splits = [own]
    if other is not None:
        old_place = folder / "against"  # where earlier versions wrote the parts of other data
        place = old_place if old_place.is_dir() else folder / "ood_data"
        splits.append(_Split(parts, model, place, other, "test", f"other {other.name}"))
    for one in splits:
        one.work(shard, shards)
    found = [[one.load(part) for part in one.parts] for one in splits]
    missing = sum(each.count(None) for each in found)
    if missing:
        print(f"{missing} parts are left to other shards", flush=True)
        return False
    if not claim.alone("likelihood/.join") or complete(folder):
        print("all parts are there, and another shard writes the result", flush=True)
        return False
    likelihood, *others = (join([one for one in each if one is not None]) for each in found)
    _save(likelihood, folder / "likelihood.npz")
    result = likelihood.summary()
    if other is not None:
        result["ood_data"] = _compare(likelihood, others[0], other.name)
    record.add(result)
    record.attempt("bounds", lambda: own.evaluator.bounds(own.raw, list(range(own.total))))
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
        parts: Parts[Any],
        model: ScoreModel,
        folder: Path,
        data: Dataset,
        split: str,
        name: str | None = None,
    ) -> None:
        assert parts.likelihood is not None  # the task asks for one
        size = parts.likelihood.batch_size
        self.evaluator, self.folder = Evaluator(parts, model, data, split), folder
        self.raw = getattr(data, split)  # of which a part is read at a time
        self.total = min(len(self.raw), parts.cfg.evaluate.scored or len(self.raw))
        self.name = name or split
        starts = range(0, self.total, size)
        self.parts = [range(i, min(i + size, self.total)) for i in starts]

    def work(self, shard: int, shards: int) -> None:
        """Compute the missing parts of a shard."""
        self.folder.mkdir(exist_ok=True)
        mine = self.parts[shard::shards]
        sizes = sum(len(part) for part in mine)
        print(f"likelihood of {sizes} {self.name} samples in {len(mine)} parts", flush=True)
        bar = tqdm(total=sizes, disable=None, leave=False, unit="sample")
        done: list[Tensor] = []
        for part in mine:
            likelihood = self.load(part)
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

    def _path(self, part: range) -> Path:
        return self.folder / f"{part.start:07d}.npz"

    def load(self, part: range) -> Likelihood | None:
        """A part, or None where its file is missing or damaged and has to be computed again."""
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


def check_settings(parts: Parts[Any], weights: Path, folder: Path) -> None:
    """Write what the numbers in a run's folder depend on, or refuse to mix them with others.

    Raises:
        ValueError: The folder holds likelihoods by other settings.
    """
    whole = parts.config
    evaluate = {key: whole["evaluate"][key] for key in ("split", "scored", "likelihood")}
    # Digests of the files: a run may have gone on training since a part was scored.
    mine: dict[str, Any] = {"weights": checkpoint.digest(weights), "evaluate": evaluate}
    flow = evaluate["likelihood"]["dequantization"].get("flow")
    if flow is not None:
        mine["flow"] = checkpoint.digest(checkpoint.find(Path(flow))[0])
    mine |= {key: whole[key] for key in ("sde", "model", "data", "ood_data", "seed")}
    if not whole["checkpoint_ema"]:  # one file has both sets of weights
        mine["checkpoint_ema"] = False
    # Digests of the data: files may have been added or removed under the same settings.
    mine["samples"] = data_identity(parts.data)
    if parts.ood_data is not None:
        mine["samples of ood_data"] = data_identity(parts.ood_data)
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
    theirs, own = (old.likelihood(json.loads(one)) for one in (path.read_text(), json.dumps(mine)))
    # The oldest folders do not name their samples.
    unknown = () if "samples" in theirs else ("samples", "samples of ood_data")
    found = differences(theirs, own, lambda key: key.partition(".")[0] not in unknown)
    different = {key.partition(".")[0] for key in found}
    if theirs.get("checkpoint_ema") != own.get("checkpoint_ema"):  # false is not as if left out
        different.add("checkpoint_ema")
    if different:
        raise ValueError(
            f"{folder} holds likelihoods by other settings ({', '.join(sorted(different))}); "
            "repeat the command that made them, or use another hydra.run.dir"
        )


def _values(likelihood: Likelihood) -> Tensor:
    """Bits/dim of quantized data, nats of points."""
    return likelihood.log_prob if likelihood.cells is None else likelihood.bits_per_dim


def _mean_and_error(values: Tensor) -> str:
    known = values[values.isfinite()]
    mean, error = mean_and_error(known) if len(known) else (math.nan, math.nan)
    return f"{mean:.4f} ± {error:.4f}"


def _compare(likelihood: Likelihood, other: Likelihood, name: str) -> dict[str, Any]:
    """How well the model separates its own data from others, as areas under the ROC curve.

    An area is 1 where all other samples have a lower likelihood, or are less typical.
    """
    inside, outside = (
        -one.log_prob[one.log_prob.isfinite()] / one.dim for one in (likelihood, other)
    )
    # Every other sample estimates what is typical, and the rest are compared with it.
    known, held = inside[::2], inside[1::2]
    typical = [typicality(v, known) for v in (held, outside)]
    return {
        "data": name,
        "mean": _values(other)[other.log_prob.isfinite()].mean().item(),
        "samples": len(outside),
        "auroc_likelihood": auroc(inside, outside),
        "auroc_typicality": auroc(*typical) if len(held) else math.nan,
    }
