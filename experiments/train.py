"""The training of a run: the loop of `training.fit` with its records around it."""

import csv
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor
from tqdm import tqdm

from scoresde.data import Batch
from scoresde.evaluation.plots import save_loss_curve
from scoresde.training import Step, checkpoint, fit
from scoresde.training.loggers import CSVLogger, Guarded, Logger

from .identity import data_identity
from .interruption import Deferred, Interrupted, handled
from .parts import Model, Parts
from .resume import Start


def make_loggers(parts: Parts[Any], folder: Path, start: Start | None) -> list[Guarded]:
    """The chosen loggers, and metrics.csv in every case."""
    done = 0
    if start is not None and parts.trains:
        done = int(start.state["step"])
        if start.run.resolve() != folder.resolve() and (start.run / "metrics.csv").exists():
            shutil.copy(start.run / "metrics.csv", folder / "metrics.csv")
    chosen: list[Logger] = [
        # Partial, because the settings name targets that must not be built again.
        instantiate(leaf, _partial_=True)(folder=folder, start=done, settings=parts.config)
        for leaf in parts.cfg.logger.values()
    ]
    if not any(isinstance(logger, CSVLogger) for logger in chosen):
        chosen.append(CSVLogger(folder, done))
    return [Guarded(logger) for logger in chosen]


def train(
    parts: Parts[Model], folder: Path, start: Start | None, loggers: Sequence[Logger]
) -> tuple[Model, float]:
    """Train from a start, or only take its weights where `checkpoint` is given.

    After a signal to end, the current step is finished and its state is saved.

    Returns:
        The averaged model, and the seconds that training took.

    Raises:
        Interrupted: A signal asked to end.
        FloatingPointError: Gradients or weights are not finite.
        OSError: A checkpoint cannot be written.
    """
    cfg, model, ema = parts.cfg.train, parts.model, parts.ema
    if not parts.trains and start is not None:
        ema.load_state_dict(start.state["ema"])
        return ema.model, 0.0
    generator = parts.generator("training")
    done = 0
    if start is not None:
        done = checkpoint.restore(start.state, model, ema, parts.optimizer, generator)
        print(f"continues after step {done} of {start.run}", flush=True)

    def batches(step: int) -> Batch:
        return parts.data.batch(step, cfg.batch_size, parts.seed).to(parts.device)

    begun = time.perf_counter()
    records = _Records(parts, done, loggers)
    identity = data_identity(parts.data)
    signals = Deferred()
    steps = fit(
        model,
        parts.loss,
        batches,
        parts.optimizer,
        ema,
        steps=cfg.steps,
        start=done,
        schedule=parts.schedule,
        grad_clip=cfg.grad_clip,
        generator=generator,
    )
    with handled(signals), closing(records.bar):
        for step in steps:
            records.add(step)
            if step.step % cfg.checkpoint_every == 0 or step.step == cfg.steps or signals.asked:
                state = (model, ema, parts.optimizer, generator, parts.config)
                kept = {"keep": cfg.keep, "data": identity}
                checkpoint.save(folder / "checkpoints", step.step, *state, **kept)
            if signals.asked:
                raise Interrupted(signals.asked)
    return ema.model, time.perf_counter() - begun


class _Records:
    """The bar and the numbers of a training."""

    def __init__(self, parts: Parts[Any], done: int, loggers: Sequence[Logger]) -> None:
        cfg = parts.cfg.train
        self.every, self.steps, self.batch_size = cfg.log_every, cfg.steps, cfg.batch_size
        self.loggers, self.recent = loggers, list[Tensor]()
        self.bar = tqdm(total=cfg.steps, initial=done, disable=None, leave=False, unit="step")
        self.time = time.perf_counter()

    def add(self, step: Step) -> None:
        """Count a step, and log the mean of the last ones when it is time."""
        self.recent.append(step.loss)
        self.bar.update()
        if step.step % self.every and step.step != self.steps:
            return
        now = time.perf_counter()
        numbers = {
            "loss": torch.stack(self.recent).mean().item(),
            "grad_norm": step.grad_norm.item(),
            "lr": step.lr,
            "samples_per_second": len(self.recent) * self.batch_size / (now - self.time),
        }
        for logger in self.loggers:
            logger.log(step.step, numbers)
        self.bar.set_postfix(loss=f"{numbers['loss']:.4f}")
        # Without a terminal there is no bar: some twenty lines show the progress.
        before = step.step - len(self.recent)
        if self.bar.disable and step.step * 20 // self.steps > before * 20 // self.steps:
            print(f"step {step.step}/{self.steps}  loss {numbers['loss']:.4f}", flush=True)
        self.recent, self.time = [], now


def save_curve(folder: Path) -> None:
    """Draw loss.png from metrics.csv, which also holds the steps of a run that was continued."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    steps, losses = [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]
    save_loss_curve(steps, losses, folder / "loss.png")
