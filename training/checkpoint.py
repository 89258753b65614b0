"""Checkpoints, which are written atomically and read without executing anything in them."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

from scoresde.sde import current_names

from . import lock
from .ema import EMA

Optimizers = torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer]

FORMAT = 1
PARTS = ("format", "step", "model", "ema", "optimizer", "rng", "config")


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    ema: EMA,
    optimizer: Optimizers,
    generator: torch.Generator,
    config: dict[str, Any],
    keep: int = 2,
    data: dict[str, Any] | None = None,
) -> Path:
    """Write `step_N.pt` atomically, then drop all but the newest `keep` checkpoints.

    Args:
        folder: Folder of checkpoints, created if it does not exist.
        step: Number of steps done.
        model: Model in training, or an `nn.ModuleDict` of several.
        ema: Its average.
        optimizer: Its optimizer, or several by their names.
        generator: Source of the loss's noise.
        config: Resolved configuration, of plain dicts, lists, strings and numbers.
        keep: Number of checkpoints to keep, ≥ 1.
        data: Identity of the training data, as plain values; None if unknown.

    Raises:
        FloatingPointError: Weights are not finite; earlier checkpoints are unchanged.
        OSError: The disk is full or not writable; earlier checkpoints are unchanged.
    """
    for part in (model, ema.model):
        problem = not_finite(part.state_dict())
        if problem is not None:
            raise FloatingPointError(
                f"after step {step} the weights are not finite ({problem}), and are not saved; "
                "lower train.optimizer.lr"
            )
    rng = {"torch": torch.get_rng_state(), "generator": generator.get_state()}
    if generator.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(generator.device)
    states = {name: one.state_dict() for name, one in _named(optimizer).items()}
    state = {
        "format": FORMAT,
        "step": step,
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": states.get("", states),
        "rng": rng,
        "config": config,
        "data": data,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:09d}.pt"
    for stray in folder.glob(".step_*.tmp"):
        if not lock.held(stray):  # its process was killed while it wrote
            stray.unlink(missing_ok=True)
    _write(path, state)
    for old in [other for other in available(folder) if other != path][keep - 1 :]:
        old.unlink(missing_ok=True)
        _digest_of(old).unlink(missing_ok=True)
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint as tensors and plain values: no code in it is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, is not a checkpoint of this toolkit, or its weights are
            not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    noted = _digest_of(path)
    if noted.is_file() and noted.read_text().strip() != digest(path):
        raise ValueError(
            f"checkpoint {path} is damaged: its SHA-256 is not the one in {noted.name}"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage raises errors of many types
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"checkpoint {path} cannot be read as tensors and plain values "
            f"({os.path.getsize(path)} bytes; {first[:120]}); it is damaged, or is not a checkpoint"
        ) from error
    missing = [part for part in PARTS if not isinstance(state, dict) or part not in state]
    if missing:
        raise ValueError(
            f"checkpoint {path} is not one of this toolkit: it lacks {', '.join(missing)}"
        )
    if state["format"] != FORMAT:
        raise ValueError(f"checkpoint {path} has format {state['format']}, expected {FORMAT}")
    for weights in (state["model"], state["ema"]["model"]):
        problem = not_finite(weights)
        if problem is not None:
            raise ValueError(
                f"checkpoint {path} holds weights that are not finite ({problem}): its training "
                "diverged; use an earlier one, or train again with a lower train.optimizer.lr"
            )
    state["config"] = current_names(state["config"])
    return state


def not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with NaN or infinity, and their number; None if all are finite."""
    for name, values in weights.items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            return f"{name}: {int((~values.isfinite()).sum())} of {values.numel()} values"
    return None


def find(path: Path) -> tuple[Path, dict[str, Any]]:
    """Read the checkpoint at a path: a file, or the newest one in a run's folder.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It cannot be read.
    """
    if not path.is_dir():
        return path, load(path)
    inner = path / "checkpoints"
    found = newest(inner if inner.is_dir() else path)
    if found is None:
        raise FileNotFoundError(f"no checkpoint (step_*.pt) under {path}")
    return found


def available(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted(folder.glob("step_*.pt"), reverse=True)


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, or None if there are no checkpoints.

    Raises:
        ValueError: There are checkpoints, but none can be read.
    """
    problems = []
    for path in available(folder):
        try:
            return path, load(path)
        except ValueError as error:
            problems.append(str(error))
            print(f"warning: {error}; trying the one before", flush=True)
        except FileNotFoundError:  # its run has continued, and removed it
            continue
    if problems:
        raise ValueError(f"no checkpoint under {folder} can be read: {problems[0]}")
    return None


def restore(
    state: dict[str, Any],
    model: nn.Module,
    ema: EMA,
    optimizer: Optimizers,
    generator: torch.Generator,
) -> int:
    """Restore the state of a training from a loaded checkpoint; return the number of steps done.

    Raises:
        ValueError: The names of the optimizers differ from those in the checkpoint.
    """
    named, saved = _named(optimizer), state["optimizer"]
    if saved.keys() == {"state", "param_groups"}:
        saved = {"": saved}
    if saved.keys() != named.keys():
        had, asked = (", ".join(sorted(n)) or "one without a name" for n in (saved, named))
        raise ValueError(f"the checkpoint has the optimizers {had}, and the training {asked}")
    model.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    for name, one in named.items():
        one.load_state_dict(saved[name])
    torch.set_rng_state(state["rng"]["torch"])
    generator.set_state(state["rng"]["generator"])
    if "cuda" in state["rng"]:
        torch.cuda.set_rng_state(state["rng"]["cuda"], generator.device)
    return int(state["step"])


def _named(optimizer: Optimizers) -> Mapping[str, torch.optim.Optimizer]:
    """Optimizers by their names; a single one has the name ""."""
    return optimizer if isinstance(optimizer, Mapping) else {"": optimizer}


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files in a folder, in hexadecimal."""
    if path.is_dir():
        whole = hashlib.sha256()
        for file in sorted(one for one in path.rglob("*") if one.is_file()):
            whole.update(f"{file.relative_to(path)} {digest(file)}\n".encode())
        return whole.hexdigest()
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write to a temporary file, flush it to the disk, rename it, then write its checksum."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with lock.create(temporary) as file:  # locked, so that no other process removes it
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
            checksum = digest(temporary)
            # A file without a checksum can be read, one with that of another cannot.
            _digest_of(path).unlink(missing_ok=True)
            os.replace(temporary, path)
        temporary.write_text(checksum + "\n")
        os.replace(temporary, _digest_of(path))
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        full = _disk_error(error, path)
        if full is not None:
            raise full from error
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the new name, too, must survive a power cut
    finally:
        os.close(directory)


def _disk_error(error: BaseException | None, path: Path) -> OSError | None:
    """The disk error behind an error of torch's writer, if there is one."""
    while isinstance(error, Exception):
        if isinstance(error, OSError) and error.errno is not None:
            return OSError(error.errno, error.strerror, str(path))
        error = error.__cause__ or error.__context__
    return None
