"""One run, as a table of contents: build, train or load, sample and evaluate, save."""

import time

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from scoresde.evaluation.report import result_table

from .build import TASKS, build
from .evaluate import generate, sample, skipped
from .likelihood import compare_dequantizations
from .noise_level import measure
from .outcome import Job, conclude
from .pretrained import names
from .record import Record, save_config
from .resume import find_start
from .split import check_settings, score_split
from .train import make_loggers, save_curve, train


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
def run(cfg: DictConfig) -> None:
    """One run, in one folder of its own; its errors end in one sentence."""
    conclude(cfg, steps)


def steps(cfg: DictConfig, job: Job) -> None:
    """What a run does, one after the other."""
    folder, choices, begun = job.folder, HydraConfig.get().runtime.choices, time.perf_counter()
    parts = build(cfg)
    start = find_start(parts, folder)
    if cfg.task == "likelihood" and start is not None:
        check_settings(parts, start.path, folder)
    save_config(cfg, folder)
    entries = {group: choices[group] for group in TASKS[cfg.task]}
    if parts.pretrained is not None:
        entries |= names(parts.pretrained) | {"checkpoint": cfg.checkpoint}
    entries["run_dir"] = str(folder)
    print(" · ".join(entries.values()), flush=True)
    left_out = skipped(parts)
    record = Record(folder, entries | ({"skipped": left_out} if left_out else {}))
    job.ending.callback(record.close)
    # Scoring a split may end early, and has nothing to log before its end.
    if cfg.task != "likelihood":
        record.loggers = make_loggers(parts, folder, start)
    job.built()
    model, training = train(parts, folder, start, record.loggers)
    if cfg.task == "likelihood":
        if not score_split(parts, model, record, job.claim):
            return
        record.loggers = make_loggers(parts, folder, start)
    record.add({"seconds": {"train": training}})
    if cfg.checkpoint is None:
        record.attempt("pictures", lambda: save_curve(folder))
    if cfg.task == "noise_estimator":
        measure(parts, model, record)
    elif cfg.task == "dequantizer":
        record.add(compare_dequantizations(parts, model))
    elif cfg.task == "generate":
        generate(parts, model, record)
    if cfg.task == "sample" or cfg.draw:
        sample(parts, model, record)
    record.add({"seconds": {"total": time.perf_counter() - begun}})
    record.finish()
    print(f"\n{result_table(record.entries)}", flush=True)
