"""The task of a run: which parts it names, trains and needs, and how it ends."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from scoresde.data import Dataset
from scoresde.models import ScoreModel
from scoresde.sde import SDE, construct, current_names
from scoresde.training import Loss, checkpoint

from ..claim import Claim
from ..model import fill
from ..parts import Parts
from ..record import Record, finished
from ..settings import differences, nodes, plain

Sections = tuple[str, ...]


class Task(ABC):
    """The purpose of a run.

    A new task is one class with a YAML in conf/task/; nothing else asks which task a run has.

    Attributes:
        name: Name that its checkpoints carry.
        takes: Name of the task whose checkpoints it takes.
        groups: Config groups whose choices name a run in result.json.
        model: Sections of the configuration that make a network what it is; they are equal where
            a checkpoint is taken.
        training: Sections that are equal where a training goes on.
        samples: Whether it needs a sampler.
        scores: Whether it computes likelihoods.
        in_parts: Whether it reads the samples that it scores part by part.
        uses_prior: Whether it starts paths from the prior of the process.
        repeats: Whether a command repeats the configuration of the run whose checkpoint it takes.
    """

    name: ClassVar[str]
    takes: ClassVar[str]
    groups: ClassVar[Sections]
    model: ClassVar[Sections]
    training: ClassVar[Sections]
    samples: bool = False
    scores: bool = False
    in_parts: bool = False
    uses_prior: bool = True
    repeats: bool = True

    @abstractmethod
    def loss(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> Loss:
        """The loss that trains the network.

        Args:
            cfg: Configuration of the run, of which the process and the data are built.
            classes: Number of classes on which the network is conditioned; None for none.
        """

    @abstractmethod
    def network(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> nn.Module:
        """The untrained network; arguments as for `loss`."""

    @abstractmethod
    def finish(self, parts: Parts[Any], model: Any, record: Record, claim: Claim) -> bool:
        """Use the averaged model: the end of the run.

        Returns:
            Whether the result is whole; else other processes have parts of it to do.
        """

    def check(self, cfg: DictConfig) -> None:
        """Raise ValueError, before anything is built, if a command does not go with the task."""
        if cfg.ood_data is not None:
            raise ValueError(f"data@ood_data belongs to task=likelihood, got task={self.name}")

    def check_foreign(self, path: Path) -> None:
        """Raise ValueError if the task takes no model that was not trained here."""
        raise ValueError(
            f"task={self.name} takes runs of this toolkit; {path} is for generate, sample, "
            "likelihood"
        )

    def adopt(self, cfg: DictConfig, model: ScoreModel) -> DictConfig:
        """The configuration by what a model that was not trained here says of itself.

        Raises:
            ValueError: The configuration contradicts it.
        """
        return cfg

    def other_data(self, cfg: DictConfig, data: Dataset) -> Dataset | None:
        """Data that the likelihood is to tell from those of the run; None for most tasks."""
        return None

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """What a checkpoint says besides the configuration."""
        return {}

    def know(self, model: nn.Module, saved: Mapping[str, Any]) -> None:  # noqa: B027
        """Note on a model what the configuration of its training says and its weights do not."""

    def skipped(self, parts: Parts[Any]) -> dict[str, str]:
        """What the run will leave out, with the reason, known before it trains."""
        return {}

    def check_folder(self, folder: Path, continues: bool) -> None:
        """Raise ValueError if a folder holds a run that is not to be continued."""
        trained = bool(checkpoint.available(folder / "checkpoints"))
        if (trained or finished(folder) is not None) and not continues:
            raise ValueError(
                f"{folder} already holds a run; use resume=auto to continue it, "
                "or another hydra.run.dir"
            )

    def prepare(self, parts: Parts[Any], weights: Path | None, folder: Path) -> None:  # noqa: B027
        """Note in the folder what its numbers depend on, where they outlive an interruption."""

    @classmethod
    def rebuild(cls, saved: Mapping[str, Any]) -> nn.Module:
        """The network of a checkpoint without its weights, by its configuration."""
        return construct(saved["description"])

    @classmethod
    def current(cls, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """The configuration of an old checkpoint in today's form."""
        return saved

    @classmethod
    def saved(cls, path: Path, key: str = "checkpoint") -> tuple[Path, dict[str, Any]]:
        """The file and the state of a checkpoint, with paths and errors as for `load`.

        Errors name the key by which the command line gives the path.
        """
        file, state = checkpoint.find(path)
        was = state["config"].get("task", "generate")  # the oldest runs have no `task` entry
        if was != cls.takes:
            raise ValueError(
                f"{key}={path} is a checkpoint of task={was}; give one of task={cls.takes}"
            )
        return file, state | {"config": cls.current(current_names(state["config"]))}

    @classmethod
    def load(cls, path: str | Path, *, ema: bool = True) -> Any:
        """The trained model of a checkpoint of this task, by the configuration that it carries.

        Args:
            path: A checkpoint, or a run's folder, of which the newest is taken.
            ema: Whether to take the averaged weights.

        Raises:
            FileNotFoundError: There is no checkpoint.
            ValueError: It cannot be read, or is of another task.
        """
        return cls._filled(*cls.saved(Path(path)), ema)

    @classmethod
    def require(
        cls, saved: Mapping[str, Any], cfg: DictConfig, sections: Sections, where: str
    ) -> None:
        """Refuse a checkpoint that was trained with other settings than those of a run.

        Args:
            sections: Sections, or entries of sections, that are equal.
            where: What the command line calls the checkpoint.

        Raises:
            ValueError: One of them differs.
        """
        was, now = dict(nodes(saved)), dict(nodes(plain(cfg)))
        for name in sections:
            had, wanted = was.get(name), now.get(name)
            if differences({name: had}, {name: wanted}):
                raise ValueError(
                    f"{where} was trained with {name} {had}, requested {wanted}; "
                    f"train one for these settings with task={cls.takes}"
                )

    @classmethod
    def auxiliary(cls, key: str, cfg: DictConfig, data: Dataset, device: torch.device) -> Any:
        """A trained model that another run uses besides its own, with fixed weights.

        Nothing in the file but numbers and plain settings is used.

        Args:
            key: Key of its path: a checkpoint, or a run's folder.
            cfg: Configuration of the run, whose process and data range must be those of the model.
            data: Data set of the run, whose shape and levels must be those of the model.
            device: Where the model is wanted.

        Raises:
            FileNotFoundError: There is no checkpoint.
            ValueError: No path, or a checkpoint of another task, process or kind of data.
        """
        path: Any = OmegaConf.select(cfg, key)
        if not isinstance(path, str):
            raise ValueError(
                f"{key} must be the folder of a run of task={cls.takes}, got {path!r}; "
                f"train one with task={cls.takes}"
            )
        file, state = cls.saved(Path(path), key)
        cls.require(state["config"], cfg, ("sde", "data.range"), f"{key}={path}")
        for name, here in (("shape", list(data.shape)), ("levels", data.levels)):
            there = state["config"]["description"].get(name, here)
            if there != here:
                raise ValueError(
                    f"{key}={path} was trained on data of {name} {there}, requested {here}; "
                    f"train one for these data with task={cls.takes}"
                )
        with torch.random.fork_rng(devices=[]):  # its first weights must not cost the network's
            model = cls._filled(file, state, True)
        return model.to(device).requires_grad_(False)

    @classmethod
    def _filled(cls, path: Path, state: Mapping[str, Any], ema: bool) -> Any:
        model = cls.rebuild(state["config"])
        fill(model, state["ema"]["model"] if ema else state["model"], path)
        model.step = state["step"]
        return model.eval()
