"""Loggers: where the numbers of a training go."""

import csv
import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from scoresde.sde.checks import check_choice


class Logger(ABC):
    """Somewhere to send numbers and pictures during a run."""

    @classmethod
    @abstractmethod
    def check(cls, **settings: Any) -> None:
        """Raise ValueError if a logger of these settings could not work, before any is made."""

    @abstractmethod
    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record numbers of a step."""

    @abstractmethod
    def picture(self, name: str, path: Path) -> None:
        """Record a picture that lies on the disk."""

    @abstractmethod
    def summary(self, result: dict[str, Any]) -> None:
        """Record the numbers at the end of a run."""

    @abstractmethod
    def close(self) -> None:
        """Finish."""


class CSVLogger(Logger):
    """Rows of `metrics.csv` in the run's folder.

    Args:
        folder: Run folder.
        start: Steps already done: later rows of an earlier run are cut.
    """

    @classmethod
    def check(cls, **settings: Any) -> None:
        """Always works."""

    def __init__(self, folder: str | Path, start: int = 0, **_: Any) -> None:
        self.path = Path(folder) / "metrics.csv"
        kept = []
        if start and self.path.exists():
            with open(self.path, newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= start]
        self._fields: list[str] = []
        # The kept rows stay on the disk under the old name until they are under the new one.
        temporary = self.path.with_name(f".metrics.{uuid4().hex}.tmp")
        self._file = open(temporary, "w", newline="")  # noqa: SIM115 (closed by close())
        for row in kept:
            self._write(row)
        os.replace(temporary, self.path)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append a row; its columns are those of the first."""
        self._write({"step": step, **metrics})

    def picture(self, name: str, path: Path) -> None:
        """Nothing: the picture lies beside the table already."""

    def summary(self, result: dict[str, Any]) -> None:
        """Nothing: result.json lies beside the table."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        if not self._fields:
            self._fields = list(row)
            csv.writer(self._file).writerow(self._fields)
        csv.DictWriter(self._file, self._fields).writerow(row)
        self._file.flush()


class TensorBoardLogger(Logger):
    """Event files for TensorBoard under `tensorboard/` in the run's folder.

    Args:
        folder: Run folder.
        start: Steps already done: later points of an earlier run are hidden.
    """

    @classmethod
    def check(cls, **settings: Any) -> None:
        """Raise ValueError if tensorboard is not installed."""
        _require("tensorboard")

    def __init__(self, folder: str | Path, start: int = 0, **_: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=start + 1)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Add scalars."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, path: Path) -> None:
        """Add an image."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, dataformats="HWC")

    def summary(self, result: dict[str, Any]) -> None:
        """Add the numbers of the result as scalars."""
        for name, value in numbers_of(result).items():
            self._writer.add_scalar(name, value)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WandbLogger(Logger):
    """A Weights & Biases run in the run's folder, offline unless told otherwise.

    Args:
        folder: Run folder.
        settings: Resolved configuration of the run.
        project: Project name.
        mode: `offline`, `online` or `disabled`.
    """

    @classmethod
    def check(cls, mode: str = "offline", **settings: Any) -> None:
        """Raise ValueError if wandb is not installed, or would prompt for a key."""
        _require("wandb")
        check_choice("wandb mode", mode, "offline", "online", "disabled")
        import wandb

        if mode == "online" and not wandb.api.api_key:
            raise ValueError("mode=online needs a key: set WANDB_API_KEY, or use mode=offline")

    def __init__(
        self,
        folder: str | Path,
        settings: dict[str, Any] | None = None,
        project: str = "score-sde",
        mode: str = "offline",
        **_: Any,
    ) -> None:
        import wandb

        self._wandb, self._folder, self._mode = wandb, Path(folder), mode
        self._run = wandb.init(
            project=project,
            dir=str(folder),
            config=settings,
            mode=cast(Any, mode),  # checked above
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log scalars."""
        self._run.log(metrics, step=step)

    def picture(self, name: str, path: Path) -> None:
        """Log an image."""
        self._run.log({name: self._wandb.Image(str(path))})

    def summary(self, result: dict[str, Any]) -> None:
        """Put the numbers of the result into the run's summary."""
        self._run.summary.update(numbers_of(result))

    def close(self) -> None:
        """Finish, and say once how to upload an offline run."""
        self._run.finish()
        if self._mode == "offline":
            print(f"to upload this run: wandb sync {self._folder}/wandb/latest-run", flush=True)


class Guarded(Logger):
    """A logger whose failure costs a run nothing but what it would have logged from there on.

    Args:
        logger: The logger.

    Attributes:
        problem: Why it failed, or None.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger, self.name = logger, type(logger).__name__
        self.problem: str | None = None

    @classmethod
    def check(cls, **settings: Any) -> None:
        """Always works."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record numbers of a step, if it still works."""
        self._try(lambda: self.logger.log(step, metrics))

    def picture(self, name: str, path: Path) -> None:
        """Record a picture, if it still works."""
        self._try(lambda: self.logger.picture(name, path))

    def summary(self, result: dict[str, Any]) -> None:
        """Record the numbers at the end, if it still works."""
        self._try(lambda: self.logger.summary(result))

    def close(self) -> None:
        """Finish, also where something failed before."""
        failed, self.problem = self.problem, None
        self._try(self.logger.close)
        self.problem = failed or self.problem

    def _try(self, what: Callable[[], None]) -> None:
        if self.problem is not None:
            return
        try:
            what()
        except Exception as error:  # of any kind: no library that logs may end a training
            self.problem = " ".join(str(error).split()) or type(error).__name__
            print(f"warning: {self.name} failed, and logs no more: {self.problem}", flush=True)


def numbers_of(result: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a result, those of inner dicts under `outer/inner` names."""
    numbers: dict[str, float] = {}
    for key, value in result.items():
        if isinstance(value, dict):
            numbers |= numbers_of(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{key}"] = value
    return numbers


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"logger={package} needs the package {package}; "
            f"install it with pip install -c constraints.txt -e '.[{package}]'"
        )
