"""One run, as a table of contents: build, train or load, sample and evaluate, save."""

import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from evaluation.report import result_table
from experiments import command_line
from experiments.build import TASKS, build, save_config
from experiments.evaluate import draw_samples, generate, save_result
from experiments.likelihood import compare_dequantizations
from experiments.noise_level import measure
from experiments.pretrained import names
from experiments.resume import find_start
from experiments.split import check_settings, score_split
from experiments.train import make_loggers, train


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
def run(cfg: DictConfig) -> None:
    """One run, in one folder of its own."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    choices = HydraConfig.get().runtime.choices
    begun = time.perf_counter()
    with command_line.one_sentence_errors(folder, cfg):
        parts = build(cfg)
        start = find_start(parts, folder)
        if cfg.task == "likelihood" and start is not None:
            check_settings(parts, start.path, folder)
        save_config(cfg, folder)
    result = {group: choices[group] for group in TASKS[cfg.task]}
    if parts.pretrained is not None:
        result |= names(parts.pretrained) | {"checkpoint": cfg.checkpoint}
    result["run_dir"] = str(folder)
    print(" · ".join(result.values()), flush=True)
    # Scoring a split may end early, and has nothing to log before its end.
    loggers = [] if cfg.task == "likelihood" else make_loggers(parts, folder, start)
    model, training = train(parts, folder, start, loggers)
    if cfg.task == "noise_estimator":
        result |= measure(parts, model, folder)
    elif cfg.task == "dequantizer":
        result |= compare_dequantizations(parts, model)
    elif cfg.task == "likelihood":
        result |= score_split(parts, model, folder)
        if "missing" in result:
            print(f"{result['missing']} parts are left to other shards", flush=True)
            return
        loggers = make_loggers(parts, folder, start)
    elif cfg.task == "generate":
        result |= generate(parts, model, folder)
    if cfg.task == "sample" or cfg.draw:
        result |= draw_samples(parts, model, folder, result)
    result["seconds"] |= {"train": training, "total": time.perf_counter() - begun}
    save_result(result, folder, loggers)
    print(f"\n{result_table(result)}", flush=True)
