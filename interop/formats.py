"""Which format a file or folder has, and the model in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import ScoreModel
from models.file import DOCUMENT, WEIGHTS

from . import flax
from .diffusers import load_diffusers
from .edm import load_edm
from .files import load_tensors, read_fields
from .score_sde import load_score_sde

FORMATS = ("native", "diffusers", "score_sde", "edm", "training")


def format_of(path: str | Path) -> str | None:
    """The format of a file or folder, or None where it is none that is known.

    `native` is a folder of `ScoreModel.save`; `training` a checkpoint that a training of this
    toolkit wrote, or the folder of one; the others are those of other projects.

    Raises:
        FileNotFoundError: There is nothing at the path.
        ValueError: A file that cannot be read.
    """
    path = _whole(Path(path))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        return _of_folder(path)
    if path.suffix in (".pkl", ".pickle"):
        return "edm"
    if flax.is_flax(path):
        return "score_sde"
    return _of_tensors(load_tensors(path))


def load(path: str | Path, config: Any = None, ema: bool = True) -> ScoreModel:
    """The model in a file or folder of any of the formats, on the CPU in evaluation mode.

    Args:
        path: File or folder.
        config: Configuration of a checkpoint of score-SDE, or settings of EDM's state dict, which
            have none in themselves.
        ema: Whether to take the averaged weights, where there are both.

    Raises:
        FileNotFoundError: There is nothing at the path.
        ValueError: The format is not known, or the file is damaged; also a training's checkpoint,
            whose network is in its run's configuration: `experiments/run.py checkpoint=RUN`.
    """
    path = _whole(Path(path))
    kind = format_of(path)
    if config is not None and kind not in ("score_sde", "edm"):
        raise ValueError(f"{path} says itself what it is; only score_sde and edm take config=")
    if kind == "native":
        return ScoreModel.load(path)
    if kind == "diffusers":
        return load_diffusers(path)
    if kind == "score_sde":
        return load_score_sde(path, config, ema)
    if kind == "edm":
        read = read_fields(Path(config)) if isinstance(config, str | Path) else config
        return load_edm(path, config=read)
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
    """The folder of a model, where one of its files is named."""
    native = path.name in (DOCUMENT, WEIGHTS) and (path.parent / DOCUMENT).is_file()
    theirs = path.name.startswith("diffusion_pytorch_model.") or path.name == "model_index.json"
    if not path.is_file() or not (native or theirs):
        return path
    return path.parent.parent if path.parent.name == "unet" else path.parent


def _of_folder(path: Path) -> str | None:
    if (path / DOCUMENT).is_file():
        return "native"
    if (path / "model_index.json").is_file() or (path / "unet" / "config.json").is_file():
        return "diffusers"
    if any(path.glob("step_*.pt")) or any(path.glob("checkpoints/step_*.pt")):
        return "training"
    return "diffusers" if (path / "config.json").is_file() else None


def _of_tensors(found: Any) -> str | None:
    """The format by the names in a file of torch or safetensors."""
    if not isinstance(found, Mapping):
        return None
    if "format" in found and "config" in found and "ema" in found:
        return "training"
    inner = found.get("model", found)
    names = [str(name) for name in inner] if isinstance(inner, Mapping) else []
    if any(
        name.removeprefix("module.").startswith(("all_modules.", "begin_conv.")) for name in names
    ):
        return "score_sde"
    bare = [name.removeprefix("model.") for name in names]
    return "edm" if any(name.startswith(("enc.", "map_layer0.")) for name in bare) else None
