"""One run, as a table of contents: build, train or load, sample and evaluate, save."""

import time

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from scoresde.evaluation.report import result_table

from .build import build
from .outcome import Job, conclude
from .pretrained import names
from .record import Record, save_config
from .resume import find_start
from .train import make_loggers, save_curve, train


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
def run(cfg: DictConfig) -> None:
    """One run, in one folder of its own; its errors end in one sentence."""
    conclude(cfg, steps)


def steps(cfg: DictConfig, job: Job) -> None:
    """The steps of a run in order."""
    folder, choices, begun = job.folder, HydraConfig.get().runtime.choices, time.perf_counter()
    parts = build(cfg)
    task = parts.task
    start = find_start(parts, folder)
    task.prepare(parts, None if start is None else start.path, folder)
    save_config(parts.cfg, folder)
    entries = {group: choices[group] for group in task.groups}
    if parts.pretrained is not None:
        entries |= names(parts.pretrained) | {"checkpoint": parts.cfg.checkpoint}
    entries["run_dir"] = str(folder)
    print(" · ".join(entries.values()), flush=True)
    left_out = task.skipped(parts)
    record = Record(folder, entries | ({"skipped": left_out} if left_out else {}))
    job.ending.callback(record.close)
    if parts.trains:  # without a training nothing is logged before the end
        record.loggers = make_loggers(parts, folder, start)
    job.built()
    model, training = train(parts, folder, start, record.loggers)
    if parts.trains:
        record.add({"seconds": {"train": training}})
        record.attempt("pictures", lambda: save_curve(folder))
    if not task.finish(parts, model, record, job.claim):
        return
    if not parts.trains:
        record.loggers = make_loggers(parts, folder, start)
    record.add({"seconds": {"train": training, "total": time.perf_counter() - begun}})
    record.finish()
    print(f"\n{result_table(record.entries)}", flush=True)
