"""Where a run starts: at step 0, after an interrupted run, or with the weights of a checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from scoresde.models.names import fitted
from scoresde.training import checkpoint

from . import pretrained
from .claim import check_free
from .identity import data_difference
from .parts import Parts
from .settings import differences, within

HARMLESS = {"data.root", "data.workers", "train.checkpoint_every", "train.keep", "train.log_every"}
ALLOW = ("data",)  # differences from the earlier run


@dataclass(frozen=True)
class Resumption:
    """What `resume` asks for.

    Attributes:
        start: `auto`, the path of a run or of a checkpoint, or None for a new run.
        allow: Differences that are accepted: `data`.
    """

    start: str | None
    allow: tuple[str, ...]


def resumption(cfg: DictConfig) -> Resumption:
    """Read `resume`: resume.from and resume.allow, or the start alone, as a preset may say it.

    Raises:
        ValueError: Something else than a path and known differences.
    """
    given: Any = OmegaConf.to_container(cfg, resolve=True)["resume"]  # type: ignore[index, call-overload]
    whole = given if isinstance(given, dict) else {"from": given}
    start, allow = whole.get("from"), whole.get("allow") or []
    if not isinstance(start, str | None):
        raise ValueError(f"resume must be auto or a path, got {start!r}")
    allowed = tuple(allow) if isinstance(allow, list) else (allow,)
    for name in allowed:
        if name not in ALLOW:
            raise ValueError(f"unknown resume.allow '{name}'. Available: {', '.join(ALLOW)}")
    if allowed and start is None:
        raise ValueError("resume.allow belongs to resume=auto or resume=PATH, which is not given")
    return Resumption(start, allowed)


@dataclass(frozen=True)
class Start:
    """State from which a run starts: a loaded checkpoint, and its file."""

    state: dict[str, Any]
    path: Path

    @property
    def run(self) -> Path:
        """Folder of the run that wrote it."""
        return self.path.parent.parent


def find_start(parts: Parts[Any], folder: Path) -> Start | None:
    """The state that `checkpoint` or `resume` asks for; None to start at step 0.

    Raises:
        ValueError: The checkpoint is of another process, network or data, cannot be read, or is of
            a run that another process holds; this folder already holds a run that is not to be
            continued; or transfer=true where no network can be taken over.
        FileNotFoundError: There is no such checkpoint.
    """
    cfg = parts.cfg
    if cfg.transfer and not _transfers(parts):
        raise ValueError(
            "transfer=true takes the edm network of another process: it needs checkpoint=RUN, "
            "model.parameterization=edm with c_noise=edm, and task=generate or likelihood"
        )
    task, start, asked = parts.task, None, resumption(cfg)
    if parts.pretrained is not None:
        start = Start(pretrained.state(parts.pretrained), Path(cfg.checkpoint))
    elif cfg.checkpoint is not None:
        # An edm network sees x/α and σ/α alone, in units of the data range, and so is the score
        # of any process.
        sections = ("model",) if cfg.transfer else task.model
        start = _named(Path(cfg.checkpoint), parts, sections)
        _say_untrained(start.state["config"], parts)
        for model in (parts.model, parts.ema.model):
            task.know(model, start.state["config"])
    elif asked.start == "auto":
        start = _newest(parts, folder)
    elif asked.start is not None:
        start = _named(Path(asked.start), parts, task.training)
    continues = asked.start is not None and start is not None and _same(start.run, folder)
    task.check_folder(folder, continues)
    if start is not None:
        start = _fitted(start, parts)
        _check_fits(start, parts)
        if cfg.checkpoint is None and not _same(start.run, folder):
            check_free(start.run)
        _compare_data(start, parts)
    return start


def _fitted(start: Start, parts: Parts[Any]) -> Start:
    """A start by the names of the run's own network, with the weights that it asks for.

    The names in a file tell what wrapped its network; `checkpoint_ema=false` takes the raw weights
    instead of their average.
    """
    wanted = parts.model.state_dict()
    raw, average = start.state["model"], start.state["ema"]
    chosen = average["model"] if parts.cfg.checkpoint_ema else raw
    average = average | {"model": fitted(chosen, wanted)}
    return replace(start, state=start.state | {"model": fitted(raw, wanted), "ema": average})


def _compare_data(start: Start, parts: Parts[Any]) -> None:
    """Refuse to continue a training on other data, or warn where that is allowed."""
    different = data_difference(start.state.get("data"), parts.data)
    if different is None:
        return
    if parts.cfg.checkpoint is not None:
        print(
            f"warning: {different}; what is held out now may have been trained on ({start.path})",
            flush=True,
        )
    elif "data" in resumption(parts.cfg).allow:
        print(f"warning: {different}; goes on with these, as resume.allow=data says", flush=True)
    else:
        raise ValueError(
            f"{different} ({start.path}); give the same data, go on with these by "
            "resume.allow=data, or leave resume out to train anew"
        )


def _transfers(parts: Parts[Any]) -> bool:
    """Whether this run could take a network that was trained on another process."""
    cfg = parts.cfg
    scores = parts.task.takes == "generate" and cfg.checkpoint is not None
    told = cfg.model.get("c_noise") in (None, "edm")
    return scores and told and cfg.model.get("parameterization") == "edm"


def _named(path: Path, parts: Parts[Any], sections: tuple[str, ...]) -> Start:
    """The checkpoint at a path: a file, or a run's folder, of which the newest is taken."""
    path, state = checkpoint.find(path)
    problem = _difference(state["config"], parts, sections)
    if problem is not None:
        raise ValueError(f"{problem} ({path})")
    return Start(state, path)


def _say_untrained(saved: dict[str, Any], parts: Parts[Any]) -> None:
    """Warn if a density is wanted at times that were not trained."""
    cfg = parts.cfg
    trained = ((saved.get("loss") or {}).get("times") or {}).get("eps")
    scored = parts.sde.eps if cfg.evaluate.eps is None else cfg.evaluate.eps
    scores = parts.likelihood is not None
    if trained is not None and scored < trained and scores and not cfg.transfer:
        print(
            f"warning: trained at times from {trained:g}, scored from {scored:g}, where it has "
            f"learned nothing; use evaluate.eps={trained:g}",
            flush=True,
        )


def _newest(parts: Parts[Any], folder: Path) -> Start | None:
    """The newest run of this configuration, if possible on these data: here, or next to it."""
    if checkpoint.available(folder / "checkpoints"):
        return _named(folder, parts, parts.task.training)
    files = folder.parent.glob("*/checkpoints/step_*.pt")
    newest_first = sorted(((_written(path), path.parent.parent) for path in files), reverse=True)
    other = None
    for run in dict.fromkeys(run for _, run in newest_first):
        try:
            found = checkpoint.newest(run / "checkpoints")
        except ValueError:  # reported already; another run may be intact
            continue
        if (
            found is not None
            and _difference(found[1]["config"], parts, parts.task.training) is None
        ):
            start = Start(found[1], found[0])
            if data_difference(start.state.get("data"), parts.data) is None:
                return start
            other = other or start
    if other is None:
        print(f"resume=auto: no run of this configuration under {folder.parent}", flush=True)
    return other


def _written(path: Path) -> int:
    """When a checkpoint was written: the folder's time also changes where one is refused."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # replaced by its run with a newer one
        return 0


def _difference(saved: dict[str, Any], parts: Parts[Any], sections: tuple[str, ...]) -> str | None:
    """One sentence about what differs in the task's sections, or None."""
    task = parts.task
    was = saved.get("task", "generate")  # old runs have no `task` entry
    if task.takes != was:
        return f"checkpoint is of task={was}, requested task={task.takes}"
    # With a decay, the learning rates of earlier steps would differ.
    harmless = HARMLESS | ({"train.steps"} if parts.cfg.train.decay == "none" else set())
    matters = within(sections)
    different = differences(
        task.current(saved), parts.config, lambda key: matters(key) and key not in harmless
    )
    if not different:
        return None
    for key in ("sde._target_", "sde.base._target_"):
        if key in different:
            was, asked = (str(target).rpartition(".")[2] for target in different[key])
            same = _transfers(parts) and not any(map(within(["model"]), different))
            fix = "; transfer=true takes its edm network all the same" if same else ""
            return f"checkpoint SDE is {was}, requested {asked}{fix}"
    listed = "; ".join(f"{k} is {v[0]}, requested {v[1]}" for k, v in list(different.items())[:4])
    return f"checkpoint differs from what is asked for: {listed}"


def _check_fits(start: Start, parts: Parts[Any]) -> None:
    """Refuse weights of other shapes or not finite, another device, and one that went further."""
    problem = checkpoint.not_finite(start.state["model"])
    if problem is not None:
        raise ValueError(f"{start.path} holds weights that are not finite ({problem})")
    weights, wanted = start.state["model"], parts.model.state_dict()
    for name in sorted(weights.keys() | wanted.keys()):
        was, asked = (tuple(s[name].shape) if name in s else None for s in (weights, wanted))
        if was != asked:
            raise ValueError(
                f"checkpoint does not fit the network for data of shape {parts.data.shape}: "
                f"{name} is {was}, requested {asked}"
            )
    if parts.cfg.checkpoint is not None:
        return
    device = "cuda" if "cuda" in start.state["rng"] else "cpu"
    if device != parts.device.type:
        raise ValueError(
            f"the run was trained on {device} and would not go on equally on {parts.device.type}; "
            f"use device={device}"
        )
    if start.state["step"] > parts.cfg.train.steps:
        raise ValueError(
            f"train.steps is {parts.cfg.train.steps}, but the run has done {start.state['step']}"
        )


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
