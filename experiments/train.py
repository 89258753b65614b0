"""The training of a run: the loop of `training.fit` with its records around it."""

import csv
import shutil
import time
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor
from tqdm import tqdm

from evaluation.plots import save_loss_curve
from models import ScoreModel
from training import EMA, Step, Warmup, checkpoint, fit
from training.loggers import CSVLogger, Logger

from .build import Parts
from .resume import Start


def train(parts: Parts, folder: Path, start: Start | None) -> tuple[ScoreModel, float]:
    """Train from a start, or only take its weights where `checkpoint` is given.

    Args:
        parts: Parts of the run.
        folder: Folder of the run.
        start: State to start from, or None for step 0.

    Returns:
        The averaged model, and the seconds that training took.
    """
    cfg, model = parts.cfg.train, parts.model
    ema = EMA(model, cfg.ema_decay)
    if parts.cfg.checkpoint is not None and start is not None:
        ema.load_state_dict(start.state["ema"])
        return ema.model, 0.0
    optimizer = instantiate(cfg.optimizer, _convert_="all")(model.parameters())
    generator = torch.Generator(parts.device).manual_seed(parts.cfg.seed)
    done = 0
    if start is not None:
        done = checkpoint.restore(start.state, model, ema, optimizer, generator)
        print(f"continues after step {done} of {start.run}", flush=True)
        if start.run.resolve() != folder.resolve() and (start.run / "metrics.csv").exists():
            shutil.copy(start.run / "metrics.csv", folder / "metrics.csv")

    def batches(step: int) -> Tensor:
        return parts.data.batch(step, cfg.batch_size, parts.cfg.seed).to(parts.device)

    def save(step: int) -> None:
        checkpoint.save(
            folder / "checkpoints", step, model, ema, optimizer, generator, parts.config, cfg.keep
        )

    begun = time.perf_counter()
    records = _Records(parts, folder, done)
    for step in fit(
        model,
        parts.loss,
        batches,
        optimizer,
        ema,
        steps=cfg.steps,
        start=done,
        schedule=Warmup(cfg.warmup, cfg.decay, cfg.steps),
        grad_clip=cfg.grad_clip,
        generator=generator,
    ):
        records.add(step)
        if step.step % cfg.checkpoint_every == 0 or step.step == cfg.steps:
            save(step.step)
    records.close()
    return ema.model, time.perf_counter() - begun


class _Records:
    """The bar, the loggers and the loss curve of a training."""

    def __init__(self, parts: Parts, folder: Path, done: int) -> None:
        cfg = parts.cfg.train
        self.every, self.steps, self.batch_size = cfg.log_every, cfg.steps, cfg.batch_size
        self.folder, self.recent = folder, list[float]()
        self.bar = tqdm(total=cfg.steps, initial=done, disable=None, leave=False, unit="step")
        self.time = time.perf_counter()
        chosen = [
            # Partial, because the settings name targets that must not be built again.
            instantiate(leaf, _partial_=True)(folder=folder, start=done, settings=parts.config)
            for leaf in parts.cfg.logger.values()
        ]
        # metrics.csv is written whatever else is chosen.
        if not any(isinstance(logger, CSVLogger) for logger in chosen):
            chosen.append(CSVLogger(folder, done))
        self.loggers: list[Logger] = chosen

    def add(self, step: Step) -> None:
        """Count a step, and log the mean of the last ones when it is time."""
        self.recent.append(step.loss)
        self.bar.update()
        if step.step % self.every and step.step != self.steps:
            return
        now = time.perf_counter()
        numbers = {
            "loss": sum(self.recent) / len(self.recent),
            "grad_norm": step.grad_norm,
            "lr": step.lr,
            "samples_per_second": len(self.recent) * self.batch_size / (now - self.time),
        }
        for logger in self.loggers:
            logger.log(step.step, numbers)
        self.bar.set_postfix(loss=f"{numbers['loss']:.4f}")
        # Without a terminal there is no bar: some twenty lines tell how far it is.
        if (
            self.bar.disable
            and (step.step * 20) // self.steps > ((step.step - len(self.recent)) * 20) // self.steps
        ):
            print(f"step {step.step}/{self.steps}  loss {numbers['loss']:.4f}", flush=True)
        self.recent, self.time = [], now

    def close(self) -> None:
        """Draw the loss curve and finish the loggers."""
        self.bar.close()
        with open(self.folder / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        steps, losses = [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]
        picture = save_loss_curve(steps, losses, self.folder / "loss.png")
        for logger in self.loggers:
            logger.picture("loss", picture, self.steps)
            logger.close()
