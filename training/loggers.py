"""Loggers, which record the numbers and pictures of a run."""

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
    """Records the numbers and pictures of a run."""

    @classmethod  # noqa: B027 — most loggers need no check
    def check(cls, **settings: Any) -> None:
        """Raise ValueError if a logger with these settings could not work."""

    @abstractmethod
    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record numbers of a step."""

    def picture(self, name: str, path: Path) -> None:  # noqa: B027 — the run's folder has it
        """Record a picture that is in the run's folder."""

    def summary(self, result: dict[str, Any]) -> None:  # noqa: B027 — the run's folder has it
        """Record the numbers at the end of a run, which are also in its result.json."""

    @abstractmethod
    def close(self) -> None:
        """Finish."""


class CSVLogger(Logger):
    """Rows of `metrics.csv` in the run's folder.

    Args:
        folder: Run folder.
        start: Number of steps already done; rows of later steps are removed.
    """

    def __init__(self, folder: str | Path, start: int = 0, **_: Any) -> None:
        self.path = Path(folder) / "metrics.csv"
        kept = []
        if start and self.path.exists():
            with open(self.path, newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= start]
        self._fields: list[str] = []
        # The old file stays until the new one holds all rows that are kept.
        temporary = self.path.with_name(f".metrics.{uuid4().hex}.tmp")
        self._file = open(temporary, "w", newline="")  # noqa: SIM115 (closed by close())
        for row in kept:
            self._write(row)
        os.replace(temporary, self.path)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append a row, with the columns of the first one."""
        self._write({"step": step, **metrics})

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
        start: Number of steps already done; points of later steps are hidden.
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
    """A Weights & Biases run in the run's folder.

    Args:
        folder: Run folder.
        settings: Resolved configuration of the run.
        project: Name of the project.
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
        """Write the numbers of the result to the run's summary."""
        self._run.summary.update(numbers_of(result))

    def close(self) -> None:
        """Finish, and print how to upload an offline run."""
        self._run.finish()
        if self._mode == "offline":
            print(f"to upload this run: wandb sync {self._folder}/wandb/latest-run", flush=True)


class Guarded(Logger):
    """A logger whose failure ends its logging, but not the run.

    Args:
        logger: The logger.

    Attributes:
        problem: Why it failed, or None.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger, self.name = logger, type(logger).__name__
        self.problem: str | None = None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record numbers of a step, if the logger still works."""
        self._try(lambda: self.logger.log(step, metrics))

    def picture(self, name: str, path: Path) -> None:
        """Record a picture, if the logger still works."""
        self._try(lambda: self.logger.picture(name, path))

    def summary(self, result: dict[str, Any]) -> None:
        """Record the numbers at the end, if the logger still works."""
        self._try(lambda: self.logger.summary(result))

    def close(self) -> None:
        """Finish, even after a failure."""
        failed, self.problem = self.problem, None
        self._try(self.logger.close)
        self.problem = failed or self.problem

    def _try(self, what: Callable[[], None]) -> None:
        if self.problem is not None:
            return
        try:
            what()
        except Exception as error:  # no error of a logging library may end a training
            self.problem = " ".join(str(error).split()) or type(error).__name__
            print(f"warning: {self.name} failed, and logs no more: {self.problem}", flush=True)


def numbers_of(result: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a result; those of inner dicts have names `outer/inner`."""
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
