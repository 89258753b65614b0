"""What a run is made of, built and checked before anything is written."""

import difflib
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from scoresde.data import Dataset
from scoresde.data.base import stream
from scoresde.evaluation.dequantization import DEQUANTIZATIONS
from scoresde.evaluation.divergence import DIVERGENCES, Divergence
from scoresde.evaluation.likelihood import CLOCKS
from scoresde.evaluation.variational import VARIANCES
from scoresde.models import DequantizationFlow, ScoreModel
from scoresde.samplers import Sampler
from scoresde.sde import SDE
from scoresde.sde.checks import check_count
from scoresde.sde.integrate import check_resolution
from scoresde.sde.tableau import PAIRS
from scoresde.training import EMA, Loss, NoiseLevelLoss, Warmup

from .cautions import caution_data
from .condition import classes_of
from .dequantizer import load_dequantizer, new_dequantizer
from .estimator import check_shape, load_estimator, new_estimator
from .model import make, score_model
from .pretrained import check_data, load_pretrained
from .resumption import resumption

Model = TypeVar("Model", bound=nn.Module)
EXACT_DIVERGENCE = 16  # coordinates up to which an exact divergence is the default
# What settings of `evaluate` can be.
CHOICES: dict[str, tuple[str | None, ...]] = {
    "split": ("test", "train"),
    "method": tuple(PAIRS),
    "clock": CLOCKS,
    "divergence": (None, *DIVERGENCES),
    "dequantization": (*DEQUANTIZATIONS, "variational"),
    "variance": (None, *VARIANCES, "learned"),
}
# What a run is for, and the config groups that name it.
TASKS = {
    "generate": ("data", "sde", "sampler", "model"),
    "sample": ("sde", "sampler", "model"),
    "noise_estimator": ("data", "sde", "estimator"),
    "likelihood": ("data", "sde", "model"),
    "dequantizer": ("data", "sde", "model"),
}


@dataclass(frozen=True)
class Parts(Generic[Model]):
    """The parts of a run, wired in Python from the leaves that the configuration names."""

    cfg: DictConfig
    device: torch.device
    sde: SDE
    data: Dataset
    model: Model
    ema: EMA[Model]
    optimizer: torch.optim.Optimizer
    schedule: Warmup
    sampler: Sampler
    loss: Loss
    against: Dataset | None = None
    dequantizer: DequantizationFlow | None = None
    pretrained: ScoreModel | None = None
    classes: int | None = None

    def generator(self, purpose: str) -> torch.Generator:
        """A generator on the run's device whose numbers belong to one purpose and seed alone."""
        seed = stream(purpose, self.cfg.seed).initial_seed()
        return torch.Generator(self.device).manual_seed(seed)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain dicts, lists, strings and numbers."""
        plain = OmegaConf.to_container(self.cfg, resolve=True)
        assert isinstance(plain, dict)
        # So that the model can be built again where the data are not at hand.
        facts = {"shape": [*self.data.shape], "classes": self.classes}
        return {str(key): value for key, value in plain.items()} | facts


def build(cfg: DictConfig) -> Parts:
    """Build every part of a run, so that wrong input fails before the first step.

    Raises:
        ValueError: A part refuses its settings.
        FileNotFoundError: Data are not where the configuration says.
    """
    _check_task(cfg)
    _check_numbers(cfg)
    if cfg.task == "likelihood" and cfg.checkpoint is None:
        raise ValueError("task=likelihood scores a trained model; add checkpoint=RUN")
    if cfg.task != "likelihood" and cfg.evaluate.shards > 1:
        raise ValueError(f"evaluate.shards belongs to task=likelihood, got task={cfg.task}")
    if cfg.dry_run:
        _shrink(cfg)
    device = _device(cfg.device)
    if cfg.checkpoint is not None and resumption(cfg).start is not None:
        raise ValueError("got both checkpoint and resume: the first does not train; give one")
    pretrained = load_pretrained(cfg)
    torch.manual_seed(cfg.seed)
    sde = make(cfg.sde) if pretrained is None else pretrained.sde
    with open_dict(cfg):
        if "range" in cfg.data and cfg.data.range is None:
            cfg.data.range = list(sde.data_range)
    estimator = load_estimator(cfg, sde, device)
    sampler = make(cfg.sampler, **({} if estimator is None else {"estimator": estimator}))
    loss = make(cfg.loss, sde=sde)
    if cfg.task != "likelihood" or cfg.draw:  # which draws nothing
        sampler.check(sde, torch.get_default_dtype())
    check_resolution(cfg.evaluate.rtol, torch.get_default_dtype())
    if cfg.evaluate.eps is not None:
        sde.check_end(cfg.evaluate.eps)
    for leaf in cfg.logger.values():
        get_method(f"{leaf._target_}.check")(**leaf)
    data = make(cfg.data)
    if data.report:
        print(data.report, flush=True)
    if pretrained is not None:
        check_data(pretrained, data.shape, data.name)
    if cfg.task != "noise_estimator":  # which draws nothing from the prior
        caution_data(sde, data)
    against = _other_data(cfg, data)
    classes = classes_of(cfg, data, pretrained)
    _check_likelihood(cfg, sde, data)
    if cfg.checkpoint is None:
        data.indices(0, cfg.train.batch_size, cfg.seed)  # refuses a batch larger than the data
    dequantizer = None
    if cfg.evaluate.dequantization == "variational" and cfg.task in ("generate", "likelihood"):
        dequantizer = load_dequantizer(cfg, data, device)
    if estimator is not None:
        check_shape(estimator, data.shape, cfg.sampler.estimator)
    model: nn.Module
    if cfg.task == "noise_estimator":
        model, loss = new_estimator(cfg, sde, data.shape), NoiseLevelLoss(sde)
    elif cfg.task == "dequantizer":
        score = score_model(cfg, sde, data.shape, data.range, classes).to(device)
        model, loss = new_dequantizer(cfg, sde, data, score)
    elif pretrained is None:
        model = score_model(cfg, sde, data.shape, data.range, classes)
    else:
        model = pretrained
    if cfg.evaluate.variance == "learned" and not cfg.model.get("learned_variance"):
        raise ValueError("evaluate.variance=learned needs model.learned_variance=true")
    loss.check(model)
    model = model.to(device)
    ema = EMA(model, cfg.train.ema_decay)
    optimizer = make(cfg.train.optimizer)(model.parameters())
    schedule = Warmup(cfg.train.warmup, cfg.train.decay, cfg.train.steps)
    parts = (sampler, loss, against, dequantizer, pretrained, classes)
    return Parts(cfg, device, sde, data, model, ema, optimizer, schedule, *parts)


def choose_divergence(evaluate: DictConfig, dim: int) -> Divergence:
    """The rule for the divergence of samples with so many coordinates.

    Raises:
        ValueError: It takes no such number of probes or coordinates.
    """
    name = evaluate.divergence or ("exact" if dim <= EXACT_DIVERGENCE else "hutchinson")
    known: dict[str, Any] = {}
    if name != "exact" and evaluate.probes is not None:
        known["probes"] = evaluate.probes
    rule = DIVERGENCES[name](**known)
    rule.check(dim)
    return rule


def _check_likelihood(cfg: DictConfig, sde: SDE, data: Dataset) -> None:
    """Refuse, before anything is trained, what could only fail once it is scored."""
    evaluate = cfg.evaluate
    if evaluate.likelihood or cfg.task in ("likelihood", "dequantizer"):
        if cfg.task != "sample":
            sde.check_signal("the likelihood (evaluate.likelihood=false leaves it out)")
        choose_divergence(evaluate, torch.Size(data.shape).numel())
    bounds = [name for name in ("vlb", "elbo") if evaluate[name]]
    if cfg.task in ("generate", "dequantizer") and (evaluate.likelihood or bounds):
        total = len(getattr(data, evaluate.split))
        count = min(total, evaluate.likelihood_samples or total)
        data.check_request(count, "set evaluate.likelihood_samples, or evaluate.likelihood=false")
    if bounds and (data.levels is None or data.range is None):
        raise ValueError(
            f"evaluate.{bounds[0]} bounds the likelihood of quantized images; {data.name} has "
            "points, whose likelihood needs no bound"
        )
    if bounds:
        sde.check_signal(f"the bound (evaluate.{bounds[0]})")
    if evaluate.vlb is not None:
        sde.equal_times(evaluate.vlb, evaluate.eps)


def _other_data(cfg: DictConfig, data: Dataset) -> Dataset | None:
    """The data set that `data@against` names, on the range and the levels of the run's own.

    Raises:
        ValueError: Another task, samples of another shape, or pixels of other levels.
    """
    if cfg.against is None:
        return None
    if cfg.task != "likelihood":
        raise ValueError(f"data@against belongs to task=likelihood, got task={cfg.task}")
    with open_dict(cfg):
        if "range" in cfg.against:
            cfg.against.range = cfg.data.range
    other: Dataset = make(cfg.against)
    if other.report:
        print(other.report, flush=True)
    if other.shape != data.shape or other.levels != data.levels:
        raise ValueError(
            f"data@against has samples {other.shape} of {other.levels} levels, and the model is "
            f"for {data.shape} of {data.levels}; give data that it can score"
        )
    return other


def _check_task(cfg: DictConfig) -> None:
    """Refuse a task that there is not; of [sample, likelihood] the first is `draw=true`."""
    named = list(cfg.task) if OmegaConf.is_list(cfg.task) else [cfg.task]
    for task in named:
        if task not in TASKS:
            near = difflib.get_close_matches(str(task), TASKS, 1)
            hint = f"; did you mean task={near[0]}?" if near else "."
            raise ValueError(f"unknown task '{task}'{hint} Available: {', '.join(TASKS)}")
    if len(named) > 1:
        if sorted(named) != ["likelihood", "sample"]:
            raise ValueError(
                f"task={named} are not one run; of several only [sample,likelihood] go together"
            )
        cfg.task, cfg.draw = "likelihood", True
    elif OmegaConf.is_list(cfg.task):
        cfg.task = named[0] if named else "generate"
    if cfg.draw and cfg.task != "likelihood":
        raise ValueError(f"draw=true belongs to task=likelihood, got task={cfg.task}")


def _device(name: Any) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device '{name}'; use auto, cpu, cuda or cuda:N")
    number = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= number:
        raise ValueError(f"device={name} asked for, but torch sees {number} GPUs; use device=auto")
    return device


def _check_numbers(cfg: DictConfig) -> None:
    """Refuse settings of the run itself that are not numbers of their kind."""
    train, evaluate = cfg.train, cfg.evaluate
    for name in ("steps", "batch_size", "checkpoint_every", "log_every", "keep"):
        check_count(f"train.{name}", train[name], 1)
    check_count("train.warmup", train.warmup, 0)
    _check_positive("train.grad_clip", train.grad_clip)  # inf for none
    _check_positive("train.optimizer.lr", train.optimizer.lr)
    for name, least in (("samples", 2), ("batch_size", 1), ("pictures", 1), ("frames", 2)):
        check_count(f"evaluate.{name}", evaluate[name], least)
    if evaluate.likelihood_samples is not None:
        check_count("evaluate.likelihood_samples", evaluate.likelihood_samples, 1)
    for name in ("rtol", "atol"):
        _check_positive(f"evaluate.{name}", evaluate[name])
    for name in ("draws", "terms", "shards"):
        check_count(f"evaluate.{name}", evaluate[name], 1)
    if evaluate.probes is not None:
        check_count("evaluate.probes", evaluate.probes, 1)
    check_count("evaluate.shard", evaluate.shard, 0)
    if evaluate.shard >= evaluate.shards:
        raise ValueError(
            f"evaluate.shard must be below evaluate.shards={evaluate.shards}, got {evaluate.shard}"
        )
    if evaluate.vlb is not None:
        check_count("evaluate.vlb", evaluate.vlb, 2)
    for name in ("eps", "log_prob_tol"):
        if evaluate[name] is not None:
            _check_positive(f"evaluate.{name}", evaluate[name])
    for name, choices in CHOICES.items():
        if evaluate[name] not in choices:
            named = ", ".join(str(choice) for choice in choices if choice is not None)
            raise ValueError(f"unknown evaluate.{name} '{evaluate[name]}'. Available: {named}")
    switches = {name: cfg[name] for name in ("dry_run", "transfer", "draw", "checkpoint_ema")}
    names = ("likelihood", "quality", "control", "importance", "elbo")
    switches |= {f"evaluate.{name}": evaluate[name] for name in names}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {value!r}")
    for name in ("width", "depth"):
        for network in ("estimator", "dequantizer"):
            check_count(f"{network}.{name}", cfg[network][name], 1)
    check_count("seed", cfg.seed, 0)
    if cfg.seed >= 2**32:  # what every library that draws numbers takes
        raise ValueError(f"seed must be below 2^32, got {cfg.seed}")
    resumption(cfg)
    for name in ("checkpoint", "checkpoint_config"):
        if not isinstance(cfg[name], str | None):
            raise ValueError(f"{name} must be a path, got {cfg[name]!r}")


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{name} must be a number > 0, got {value!r}")


def _shrink(cfg: DictConfig) -> None:
    """Two steps of everything, for `dry_run=true`."""
    few = {"steps": 2, "rtol": 0.1, "atol": 0.1}
    loose = {"rtol": 0.1, "atol": 0.1}
    counts = {"samples": 4, "pictures": 4, "frames": 3, "likelihood_samples": 2}
    cfg.merge_with(
        {
            "train": {"steps": 2, "batch_size": 4, "checkpoint_every": 1, "log_every": 1},
            "evaluate": counts | loose,
            "sampler": {name: value for name, value in few.items() if name in cfg.sampler},
        }
    )
