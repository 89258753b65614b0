"""Where a run starts: at step 0, after an interrupted run, or with the weights of a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from training import checkpoint

# What must be the same for training to go on as if it had never stopped. Keys that may change
# without changing the law of the steps already done are left out.
TRAINING = ("sde", "model", "data", "loss", "train", "seed")
HARMLESS = (
    "data.root",
    "train.steps",
    "train.checkpoint_every",
    "train.keep",
    "train.log_every",
)


@dataclass(frozen=True)
class Start:
    """State from which a run starts.

    Attributes:
        state: Loaded checkpoint.
        run: Folder of the run that wrote it.
    """

    state: dict[str, Any]
    run: Path


def find_start(cfg: DictConfig, folder: Path) -> Start | None:
    """The state that `checkpoint` or `resume` asks for; None to start at step 0.

    Args:
        cfg: Configuration.
        folder: Folder of this run.

    Raises:
        ValueError: The checkpoint is of another process, network or data, cannot be read, or this
            folder already holds a run that nobody asked to continue.
        FileNotFoundError: There is no such checkpoint.
    """
    if cfg.checkpoint is not None and cfg.resume is not None:
        raise ValueError("got both checkpoint and resume: the first does not train; give one")
    if cfg.checkpoint is not None:
        return _named(Path(cfg.checkpoint), cfg, ("sde", "model"))
    if cfg.resume is not None and cfg.resume != "auto":
        return _named(Path(cfg.resume), cfg, TRAINING)
    if cfg.resume == "auto":
        return _newest(cfg, folder)
    if (folder / "result.json").exists() or checkpoint.available(folder / "checkpoints"):
        raise ValueError(
            f"{folder} already holds a run; use resume=auto to continue it, "
            "or another hydra.run.dir"
        )
    return None


def _named(path: Path, cfg: DictConfig, sections: tuple[str, ...]) -> Start:
    """The checkpoint at a path: a file, or a run's folder, of which the newest is taken."""
    if path.is_dir():
        inner = path / "checkpoints"
        found = checkpoint.newest(inner if inner.is_dir() else path)
        if found is None:
            raise FileNotFoundError(f"no checkpoint (step_*.pt) under {path}")
        path, state = found
    else:
        state = checkpoint.load(path)
    problem = _difference(state["config"], cfg, sections)
    if problem is not None:
        raise ValueError(f"{problem} ({path})")
    return Start(state, path.parent.parent)


def _newest(cfg: DictConfig, folder: Path) -> Start | None:
    """The newest run of this configuration: this folder's own, or one beside it."""
    if checkpoint.available(folder / "checkpoints"):
        return _named(folder, cfg, TRAINING)
    runs = {path.parent.parent for path in folder.parent.glob("*/checkpoints/step_*.pt")}
    for run in sorted(runs, key=lambda run: run.stat().st_mtime, reverse=True):
        found = checkpoint.newest(run / "checkpoints")
        if found is not None and _difference(found[1]["config"], cfg, TRAINING) is None:
            return Start(found[1], run)
    print(f"resume=auto: no run of this configuration under {folder.parent}", flush=True)
    return None


def _difference(saved: dict[str, Any], cfg: DictConfig, sections: tuple[str, ...]) -> str | None:
    """One sentence about the first thing that differs, or None."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    old = _flat({key: saved.get(key) for key in sections})
    new = _flat({key: plain[key] for key in sections})  # type: ignore[index, call-overload]
    names = {key: (old.get(key), new.get(key)) for key in sorted(old | new)}
    different = {k: v for k, v in names.items() if v[0] != v[1] and k not in HARMLESS}
    if not different:
        return None
    process = {k: v for k, v in different.items() if k in ("sde._target_", "sde.base._target_")}
    if process:
        was, asked = next(iter(process.values()))
        return f"checkpoint SDE is {_class(was)}, requested {_class(asked)}"
    listed = "; ".join(f"{k} is {v[0]}, requested {v[1]}" for k, v in list(different.items())[:4])
    return f"checkpoint differs from what is asked for: {listed}"


def _class(target: Any) -> str:
    return str(target).rpartition(".")[2]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a tree of dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    leaves: dict[str, Any] = {}
    for key, value in items:
        name = f"{prefix}{key}"
        leaves |= _flat(value, f"{name}.") if isinstance(value, (dict, list)) else {name: value}
    return leaves
