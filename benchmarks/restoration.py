"""Conditional models of small images: super-resolution, inpainting, residuals and a cascade.

python -m benchmarks.restoration FOLDER trains each model into FOLDER, unless it is there, and
writes restoration.md and a picture of each. `--mnist ROOT` adds MNIST, from 7 x 7 to 28 x 28, and
`--only` takes some of the runs.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DIGITS = [
    *("task=restore", "sde=vp", "sampler=dpmpp", "task.images=64"),
    *("train.steps=2500", "train.batch_size=96"),
]
SMALL = ["model.net.num_res_blocks=1", "model.net.attn_resolutions=[]"]
RUNS = {
    "superres": [*DIGITS, "condition=superres", "condition.levels=[0.02,0.8]"],
    "residual": [
        *DIGITS,
        *("condition=superres", "condition.pair.residual=true", "condition.encoder_blocks=2"),
    ],
    "inpainting": [*DIGITS, "condition=inpainting"],
    "uncropping": [*DIGITS, "condition=uncropping"],
    "low": ["data=digits_low", "sde=vp", "sampler=dpmpp", "evaluate/likelihood=none"],
    "mnist": [
        *("task=restore", "data=mnist", "sde=vp", "sampler=dpmpp", "sampler.steps=15"),
        *("condition=superres", "condition.factor=4", "condition.dropout=0", *SMALL),
        *(
            "model.net.ch_mult=[1,2,2]",
            "model.sigma_data=0.6",
            "train.batch_size=32",
            "train.steps=600",
        ),
        *("task.images=24", "task.draws=8", "evaluate.batch_size=96"),
    ],
}


def run(folder: Path, settings: list[str]) -> dict[str, Any]:
    """The result of a run, which is done unless it is there."""
    if not (folder / "result.json").is_file():
        command = [sys.executable, str(ROOT / "experiments" / "run.py"), *settings]
        subprocess.run([*command, f"hydra.run.dir={folder}"], check=True)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def line(name: str, result: dict[str, Any]) -> str:
    """A row of the table."""
    found, seconds = result["restored"], result["seconds"]
    level = found["psnr"]
    numbers = [f"{level[kind]:.2f}" for kind in ("given", "mean", "sample")]
    numbers.append(f"{level['mean'] - level['given']:+.2f}")
    numbers.append(f"{found['consistency']:.3f}" if "consistency" in found else "–")
    numbers.append(f"{100 * found['clipped']:.1f} %" if "clipped" in found else "–")
    return f"| {name} | {' | '.join(numbers)} | {seconds['train']:.0f} s |"


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mnist", type=Path, help="folder of the four IDX files")
    parser.add_argument("--only", nargs="+", choices=[*RUNS, "cascade"])
    parser.add_argument("--set", nargs="+", default=[], help="more settings of every training")
    asked = parser.parse_args()
    wanted = asked.only or [*RUNS, "cascade"]
    rows = [
        "| condition | plain enlargement, dB | mean, dB | one sample, dB | gain of the mean, dB "
        "| distance of small images | clipped | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, settings in RUNS.items():
        if name not in wanted or (name == "mnist" and asked.mnist is None):
            continue
        root = [f"data.root={asked.mnist.resolve()}"] if name == "mnist" else []
        result = run(asked.folder / name, [*settings, *root, *asked.set])
        if "restored" in result:
            rows.append(line(name, result))
            shutil.copy(asked.folder / name / "restored.png", asked.folder / f"{name}.png")
    if "superres" in wanted:
        again = [*RUNS["superres"], f"checkpoint={asked.folder / 'superres'}", *asked.set]
        result = run(asked.folder / "consistent", [*again, "task.consistent=true"])
        rows.append(line("superres, consistent", result))
    if "cascade" in wanted:
        stages = [f"checkpoint={asked.folder / 'superres'}", f"task.low={asked.folder / 'low'}"]
        both = ["task=cascade", *stages, "sampler=dpmpp", "evaluate.samples.count=64"]
        for level in (0.05, 0.2, 0.5):
            run(asked.folder / f"cascade_{level}", [*both, f"task.level={level}"])
        run(asked.folder / "cascade_truncated", [*both, "task.level=0.2", "task.truncated=true"])
        shutil.copy(asked.folder / "cascade_0.2" / "cascade.png", asked.folder / "cascade.png")
    text = "\n".join([*rows, ""])
    (asked.folder / "restoration.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
