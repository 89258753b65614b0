"""The parts of a run are built and checked here, before anything is written."""

from typing import Any

import torch
from hydra.utils import get_method
from omegaconf import DictConfig

from scoresde.data import Dataset
from scoresde.evaluation import FlowLikelihood
from scoresde.samplers import Sampler
from scoresde.sde import SDE
from scoresde.sde.checks import check_choice, check_count, check_positive, check_switch
from scoresde.training import EMA, Warmup

from .cautions import caution_data
from .condition import classes_of, data_of
from .conditioning import Conditioning
from .model import make
from .parts import Parts, cells_of
from .pretrained import check_data, load_pretrained
from .resume import resumption
from .settings import changed, plain, shrunk
from .tasks import Dequantizer, NoiseEstimator, Task


def build(cfg: DictConfig) -> Parts[Any]:
    """Build every part of a run, so that wrong input fails before the first step.

    Raises:
        ValueError: A part refuses its settings.
        FileNotFoundError: Data are not where the configuration says.
    """
    task: Task = make(cfg.task)
    task.check(cfg)
    _check_numbers(cfg)
    if cfg.dry_run:
        cfg = shrunk(cfg)
    device = _device(cfg.device)
    if cfg.checkpoint is not None and resumption(cfg).start is not None:
        raise ValueError("got both checkpoint and resume: the first does not train; give one")
    pretrained = load_pretrained(cfg, task)
    if pretrained is not None:
        cfg = task.adopt(cfg, pretrained)
    torch.manual_seed(cfg.seed)
    sde: SDE = make(cfg.sde) if pretrained is None else pretrained.sde
    if "range" in cfg.data and cfg.data.range is None:
        cfg = changed(cfg, data=plain(cfg.data) | {"range": list(sde.data_range)})
    for leaf in cfg.logger.values():
        get_method(f"{leaf._target_}.check")(**leaf)
    sampling, bounds, quality = (make(cfg.evaluate[n]) for n in ("samples", "bounds", "quality"))
    data = data_of(cfg)
    if data.report:
        print(data.report, flush=True)
    sampler = _sampler(cfg, sde, data, device) if task.samples else None
    likelihood = _likelihood(cfg, data, device) if task.scores else None
    conditioning: Conditioning = make(cfg.conditioning)
    if pretrained is not None:
        check_data(pretrained, data.shape, data.name)
    if task.uses_prior:
        caution_data(sde, data)
    ood_data = task.other_data(cfg, data)
    classes = classes_of(cfg.condition, data, pretrained)
    if cfg.checkpoint is None:
        data.indices(0, cfg.train.batch_size, cfg.seed)  # refuses a batch larger than the data
    loss = task.loss(cfg, sde, data, classes)
    model = task.network(cfg, sde, data, classes) if pretrained is None else pretrained
    if pretrained is None:
        task.know(model, plain(cfg))
    loss.check(model)
    model = model.to(device)
    ema = EMA(model, cfg.train.ema_decay)
    optimizer = make(cfg.train.optimizer)(model.parameters())
    schedule = Warmup(cfg.train.warmup, cfg.train.decay, cfg.train.steps)
    trained = (cfg, task, device, sde, data, model, loss, ema, optimizer, schedule)
    measured = (sampling, bounds, sampler, likelihood, quality, ood_data)
    parts = Parts(*trained, conditioning, *measured, pretrained, classes)
    if task.scores:
        _check_scores(parts)
    conditioning.check(parts)
    return parts


def _sampler(cfg: DictConfig, sde: SDE, data: Dataset, device: torch.device) -> Sampler:
    """The sampler, and the estimator of the noise level if it names one by a path."""
    wires = {}
    if "estimator" in cfg.sampler:
        wires["estimator"] = NoiseEstimator.auxiliary("sampler.estimator", cfg, data, device)
    sampler: Sampler = make(cfg.sampler, **wires)
    sampler.check(sde, torch.get_default_dtype())
    return sampler


def _likelihood(cfg: DictConfig, data: Dataset, device: torch.device) -> FlowLikelihood | None:
    """The likelihood, and the flow within the cells if it names one by a path."""
    leaf, wires = cfg.evaluate.likelihood, {}
    if leaf is not None and "flow" in leaf.dequantization:
        key = "evaluate.likelihood.dequantization.flow"
        flow = Dequantizer.auxiliary(key, cfg, data, device)
        wires["dequantization"] = make(leaf.dequantization, flow=flow)
    return make(leaf, **wires)


def _check_scores(parts: Parts[Any]) -> None:
    """Refuse, before anything is trained, what could only fail once it is scored."""
    data, likelihood, evaluate = parts.data, parts.likelihood, parts.cfg.evaluate
    if likelihood is not None:
        likelihood.check(parts.sde, torch.Size(data.shape).numel())
    learned = getattr(parts.model, "learned_variance", False)
    parts.bounds.check(parts.sde, cells_of(data), learned)
    if not parts.task.in_parts and (likelihood is not None or parts.bounds.names):
        total = len(getattr(data, evaluate.split))
        count = min(total, evaluate.scored or total)
        data.check_request(count, "set evaluate.scored, or evaluate/likelihood=none")


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
    train = cfg.train
    for name in ("steps", "batch_size", "checkpoint_every", "log_every", "keep"):
        check_count(f"train.{name}", train[name], 1)
    check_count("train.warmup", train.warmup, 0)
    check_positive("train.grad_clip", train.grad_clip)  # inf for none
    check_positive("train.optimizer.lr", train.optimizer.lr)
    if cfg.evaluate.scored is not None:
        check_count("evaluate.scored", cfg.evaluate.scored, 1)
    check_count("evaluate.batch_size", cfg.evaluate.batch_size, 1)
    check_choice("evaluate.split", cfg.evaluate.split, "test", "train")
    if cfg.evaluate.eps is not None:
        check_positive("evaluate.eps", cfg.evaluate.eps)
    for name in ("dry_run", "transfer", "checkpoint_ema"):
        check_switch(cfg[name], name)
    check_count("seed", cfg.seed, 0)
    if cfg.seed >= 2**32:  # the limit of all libraries with random numbers
        raise ValueError(f"seed must be below 2^32, got {cfg.seed}")
    resumption(cfg)
    for name in ("checkpoint", "checkpoint_config"):
        if not isinstance(cfg[name], str | None):
            raise ValueError(f"{name} must be a path, got {cfg[name]!r}")
