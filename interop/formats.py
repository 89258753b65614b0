"""The format of a file or folder, and the model in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scoresde.models import ScoreModel
from scoresde.models.file import DOCUMENT, WEIGHTS

from . import flax
from .diffusers import load_diffusers
from .diffusers_files import root_of
from .edm import load_edm
from .files import load_tensors, read_fields
from .score_sde import is_named, load_score_sde
from .weights import one_set, tensor_names

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".json")


def format_of(path: str | Path) -> str | None:
    """The format of a file or folder, or None where it is unknown.

    `native` is a folder of `ScoreModel.save`, and `training` a checkpoint that a training of this
    toolkit wrote, or its folder; `diffusers`, `score_sde` and `edm` are those of other projects.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: The file cannot be read.
    """
    path = _whole(Path(path))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        return _of_folder(path)
    if root_of(path) is not None:
        return "diffusers"
    if path.suffix in (".pkl", ".pickle"):
        return "edm"
    if flax.is_flax(path):
        return "score_sde"
    return _of_tensors(load_tensors(path))


def load(path: str | Path, config: Any = None, ema: bool = True) -> ScoreModel:
    """The model in a file or folder of any of the formats, on the CPU in evaluation mode.

    Args:
        path: File or folder.
        config: Configuration of a checkpoint of score-SDE, or settings of EDM's state dict; these
            formats do not contain them.
        ema: Whether to take the averaged weights where there are both, or the raw ones.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: The format is unknown, the file is damaged, or ema is false and there is one set
            of weights. Also for a training's checkpoint, whose network is in the configuration of
            its run: use `experiments/run.py checkpoint=RUN`.
    """
    path = _whole(Path(path))
    kind = format_of(path)
    if config is not None and kind not in ("score_sde", "edm"):
        raise ValueError(
            f"{path} contains its configuration; only score_sde and edm take another, leave "
            "config= (checkpoint_config=, --config) out"
        )
    if kind == "native":
        if not ema:
            raise one_set(path)
        return ScoreModel.load(path)
    if kind == "diffusers":
        return load_diffusers(path, ema=ema)
    if kind == "score_sde":
        return load_score_sde(path, config, ema)
    if kind == "edm":
        read = read_fields(Path(config)) if isinstance(config, str | Path) else config
        return load_edm(path, config=read, ema=ema)
    if kind == "training":
        raise ValueError(
            f"{path} is a training's checkpoint; convert it with experiments/convert.py, or use "
            "experiments/run.py checkpoint=RUN"
        )
    raise ValueError(
        f"{path} has none of the known formats: a folder with model.json, a folder of diffusers, a "
        "checkpoint of score-SDE (all_modules.N), or EDM's pickle or state dict"
    )


def _whole(path: Path) -> Path:
    """The folder of a native model if the path is one of its files, otherwise the path.

    A link whose suffix does not show its format is resolved.
    """
    if path.is_symlink() and path.is_file() and path.suffix not in SUFFIXES:
        path = path.resolve()
    for way in (path, path.resolve()):
        named = way.is_file() and way.name in (DOCUMENT, WEIGHTS)
        if named and (way.parent / DOCUMENT).is_file():
            return way.parent
    return path


def _of_folder(path: Path) -> str | None:
    if (path / DOCUMENT).is_file():
        return "native"
    if any(path.glob("step_*.pt")) or any(path.glob("checkpoints/step_*.pt")):
        return "training"
    return "diffusers" if root_of(path) is not None else None


def _of_tensors(found: Any) -> str | None:
    """The format of a PyTorch or safetensors file, by the names in it."""
    if not isinstance(found, Mapping):
        return None
    if "format" in found and "config" in found and "ema" in found:
        return "training"
    names = tensor_names(found)
    if is_named(names):
        return "score_sde"
    within = [name.removeprefix("model.") for name in names]  # of a preconditioner with buffers
    if any(name.startswith(("enc.", "map_layer0.")) for name in within):
        return "edm"
    return "diffusers" if any(name.startswith("down_blocks.") for name in names) else None
