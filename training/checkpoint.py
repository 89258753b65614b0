"""Checkpoints: written whole or not at all, read without executing anything."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .ema import EMA

FORMAT = 1
PARTS = ("format", "step", "model", "ema", "optimizer", "rng", "config")


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    config: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Write `step_N.pt` atomically, then drop all but the newest `keep` checkpoints.

    Args:
        folder: Folder of checkpoints, made if need be.
        step: Number of steps done.
        model: Model in training.
        ema: Its average.
        optimizer: Its optimizer.
        generator: Source of the loss's noise.
        config: Resolved configuration, of plain dicts, lists, strings and numbers.
        keep: How many checkpoints stay, ≥ 1.

    Raises:
        OSError: The disk is full or not writable; what was there stays as it was.
    """
    rng = {"torch": torch.get_rng_state(), "generator": generator.get_state()}
    if generator.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(generator.device)
    state = {
        "format": FORMAT,
        "step": step,
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": rng,
        "config": config,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:09d}.pt"
    for stray in folder.glob(".step_*.tmp"):  # of a process that was killed while it wrote
        stray.unlink()
    _write(path, state)
    for old in [other for other in available(folder) if other != path][keep - 1 :]:
        old.unlink()
        _digest_of(old).unlink(missing_ok=True)
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only: no code in it is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, or is not a checkpoint of this toolkit.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    digest = _digest_of(path)
    if digest.is_file() and digest.read_text().strip() != _sha256(path):
        raise ValueError(
            f"checkpoint {path} is damaged: its SHA-256 is not the one in {digest.name}"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as errors of any kind, and none of them is ours
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"checkpoint {path} cannot be read as tensors and plain values "
            f"({os.path.getsize(path)} bytes; {first[:120]}); it is damaged or not ours"
        ) from error
    missing = [part for part in PARTS if not isinstance(state, dict) or part not in state]
    if missing:
        raise ValueError(
            f"checkpoint {path} is not one of this toolkit: it lacks {', '.join(missing)}"
        )
    if state["format"] != FORMAT:
        raise ValueError(f"checkpoint {path} has format {state['format']}, expected {FORMAT}")
    return state


def find(path: Path) -> tuple[Path, dict[str, Any]]:
    """Read the checkpoint at a path: a file, or a run's folder, of which the newest is taken.

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
    """The newest checkpoint that can be read, or None where there is none at all.

    Raises:
        ValueError: There are checkpoints, and none can be read.
    """
    problems = []
    for path in available(folder):
        try:
            return path, load(path)
        except ValueError as error:
            problems.append(str(error))
            print(f"warning: {error}; trying the one before", flush=True)
    if problems:
        raise ValueError(f"no checkpoint under {folder} can be read: {problems[0]}")
    return None


def restore(
    state: dict[str, Any],
    model: nn.Module,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> int:
    """Put a loaded checkpoint back in place; the number of steps done."""
    model.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"]["torch"])
    generator.set_state(state["rng"]["generator"])
    if "cuda" in state["rng"]:
        torch.cuda.set_rng_state(state["rng"]["cuda"], generator.device)
    return int(state["step"])


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return _sha256(path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write beside the target, reach the disk, note the checksum, then take the target's name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        _digest_of(path).write_text(_sha256(temporary) + "\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # so that the new name survives a power cut as well
    finally:
        os.close(directory)
