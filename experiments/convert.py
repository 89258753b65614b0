"""Convert a trained model from any format that is read to one that is written.

python experiments/convert.py IN OUT --to score_sde|diffusers|native
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # run as a script, from any folder: find the packages next to this one
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scoresde.experiments.command_line import fail

if TYPE_CHECKING:  # torch and the toolkit take seconds, and --help needs none of them
    from scoresde.models import ScoreModel

FORMATS = ("score_sde", "diffusers", "native")


def main(arguments: list[str] | None = None) -> None:
    """Convert; wrong input ends with exit code 2 and one sentence, and nothing is written."""
    parser = argparse.ArgumentParser(
        prog="convert.py",
        description="Convert a trained model: IN may be a run or a checkpoint of this toolkit, a "
        "folder of ScoreModel.save or of diffusers, a checkpoint of score-SDE, or EDM's pickle.",
    )
    parser.add_argument("source", metavar="IN", type=_path, help="file or folder to read")
    parser.add_argument("target", metavar="OUT", type=_path, help="file or folder to write")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format of OUT")
    parser.add_argument(
        "--config", type=_path, help="JSON or YAML with the configuration of a score-SDE checkpoint"
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="the raw weights in the place of the averaged ones, where IN has both",
    )
    given = parser.parse_args(arguments)
    try:
        model = _read(given.source, given.config, not given.raw)
        target = _write(model, given.target, given.to)
    except (ValueError, TypeError, OSError) as error:
        fail(error)
    print(f"{given.source} ({type(model.net).__name__}) → {target} ({given.to})", flush=True)


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _read(path: Path, config: Path | None, ema: bool) -> "ScoreModel":
    from scoresde.experiments.tasks import Generate
    from scoresde.interop import format_of, load

    if format_of(path) == "training":
        if config is not None:
            raise ValueError(f"{path} has its own configuration; leave --config out")
        return Generate.load(path, ema=ema)
    return load(path, config, ema)


def _write(model: "ScoreModel", path: Path, kind: str) -> Path:
    from scoresde.interop import save_diffusers, save_score_sde

    if kind == "native":
        return model.save(path)
    if kind == "diffusers":
        return save_diffusers(model, path)
    return save_score_sde(model, path if path.suffix else path.with_suffix(".pth"))


if __name__ == "__main__":
    main()
