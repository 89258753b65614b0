"""The parts of a run, wired in Python from the leaves that its configuration names."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from scoresde.data import Dataset
from scoresde.data.base import stream
from scoresde.evaluation import Bounds, Cells, ClassifierQuality, FlowLikelihood
from scoresde.models import ScoreModel
from scoresde.samplers import Sampler
from scoresde.sde import SDE
from scoresde.training import EMA, Loss, Warmup

from .samples import Sampling
from .settings import plain

if TYPE_CHECKING:
    from .conditioning import Conditioning
    from .tasks import Task

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Parts(Generic[Model]):
    """The parts of a run; those that its task does not need are None.

    Attributes:
        cfg: Configuration, with what the parts add to it.
        model: Network that is trained or taken from a checkpoint.
        ema: Average of its weights.
        conditioning: What the samples are conditioned on.
        sampling: How many samples are generated, and their pictures.
        ood_data: Other data, which the likelihood is to tell from those of the run.
        pretrained: Model of another format, which has brought its own process and network.
        classes: Number of classes on which the network is conditioned.
    """

    cfg: DictConfig
    task: "Task"
    device: torch.device
    sde: SDE
    data: Dataset
    model: Model
    loss: Loss
    ema: EMA[Model]
    optimizer: torch.optim.Optimizer
    schedule: Warmup
    conditioning: "Conditioning"
    sampling: Sampling
    bounds: Bounds
    sampler: Sampler | None = None
    likelihood: FlowLikelihood | None = None
    quality: ClassifierQuality | None = None
    ood_data: Dataset | None = None
    pretrained: ScoreModel | None = None
    classes: int | None = None

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.cfg.seed)

    @property
    def trains(self) -> bool:
        """Whether the run trains, rather than take a model as it is."""
        return self.cfg.checkpoint is None

    @property
    def scored(self) -> Tensor:
        """The raw samples of the split that are scored."""
        return getattr(self.data, self.cfg.evaluate.split)[: self.cfg.evaluate.scored]

    def generator(self, purpose: str) -> torch.Generator:
        """A generator on the run's device whose numbers belong to one purpose and seed alone."""
        seed = stream(purpose, self.seed).initial_seed()
        return torch.Generator(self.device).manual_seed(seed)

    @property
    def config(self) -> dict[str, Any]:
        """What a checkpoint says of its run, as plain dicts, lists, strings and numbers.

        Besides the configuration it has the facts by which the model can be built again where the
        data are not at hand.
        """
        facts = {"shape": [*self.data.shape], "classes": self.classes, "task": self.task.name}
        return plain(self.cfg) | facts | self.task.facts(self.model)


def cells_of(data: Dataset) -> Cells | None:
    """Cells of quantized data; None for points."""
    if data.levels is None or data.range is None:
        return None
    return Cells(data.levels, *data.range)
