"""The files of a run's configuration and results, each written whole or not at all."""

import functools
import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from scoresde.training.loggers import Guarded

from .outcome import sentence

PICTURES = ("loss", "samples", "noise_level")


class Record:
    """The entries of result.json, which is written again after each part of a run.

    Until all parts are done it says `unfinished`. What may fail without costing the rest is an
    optional part: its sentence is then under `failed`.
    """

    def __init__(self, folder: Path, entries: dict[str, Any]) -> None:
        self.folder, self.entries = folder, entries | {"seconds": {}}
        self.loggers: list[Guarded] = []  # where the result goes as well

    def add(self, entries: dict[str, Any]) -> None:
        """Take the entries of a part that is done; those under `seconds` join the others."""
        seconds = self.entries["seconds"] | entries.get("seconds", {})
        self.entries |= entries | {"seconds": seconds}
        self._write({"unfinished": True})

    def attempt(self, name: str, part: Callable[[], dict[str, Any] | None]) -> None:
        """Do an optional part and take its entries; if it fails, report that, and go on."""
        try:
            found = part()
        except Exception as error:  # of any kind: it must not cost the result
            said = sentence(error)
            print(f"warning: {name} failed, and is left out: {said}", flush=True)
            found = {"failed": self.entries.get("failed", {}) | {name: said}}
        if found is not None:
            self.add(found)

    def finish(self) -> None:
        """Write what there is as a finished result, and give it to the loggers."""
        whole = self._write({})
        for logger in self.loggers:
            for name in PICTURES:
                if (self.folder / f"{name}.png").exists():
                    logger.picture(name, self.folder / f"{name}.png")
            logger.summary(whole)
        failed = {one.name: one.problem for one in self.close() if one.problem is not None}
        if failed:
            self.entries["failed"] = self.entries.get("failed", {}) | failed
            self._write({})

    def close(self) -> list[Guarded]:
        """Finish and drop the loggers."""
        finished, self.loggers = self.loggers, []
        for logger in finished:
            logger.close()
        return finished

    def _write(self, state: dict[str, Any]) -> dict[str, Any]:
        made_by = {"torch": torch.__version__, "commit": _commit()}
        whole: dict[str, Any] = _without_nan(self.entries | made_by | state)
        text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
        _replace(self.folder / "result.json", lambda file: file.write(text.encode()))
        return whole


def finished(folder: Path) -> dict[str, Any] | None:
    """The result in a folder; None if there is none, or a run was interrupted before its end."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # a file of another program, which is not replaced
        return {}
    if not isinstance(result, dict):
        return {}
    return None if result.get("unfinished") else result


def complete(folder: Path) -> bool:
    """Whether a folder holds a finished result of which no part failed."""
    result = finished(folder)
    return result is not None and not result.get("failed")


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Write config.yaml, the resolved configuration of the run."""
    text = OmegaConf.to_yaml(cfg, resolve=True)
    _replace(folder / "config.yaml", lambda file: file.write(text.encode()))


def save_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write an npz file without pickles."""
    _replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file whole, or leave what was there."""
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@functools.cache
def _commit() -> str | None:
    """The commit that this code is at, where git can tell."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def _without_nan(value: Any) -> Any:
    """NaN as null, which JSON has: the error of a single sample, say."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
