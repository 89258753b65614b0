"""The files of a model of diffusers, found from any one of them.

    PIPE/model_index.json
    PIPE/scheduler/scheduler_config.json
    PIPE/unet/config.json, diffusion_pytorch_model.safetensors (or .bin, or several with an index)
    PIPE/unet_ema/…              the average that the training script writes next to unet/

If there is a file diffusion_pytorch_model.non_ema.safetensors with raw weights, the file without a
variant holds their average. The script's checkpoints are folders PIPE/checkpoint-500 with unet/ and
unet_ema/, and their scheduler is that of PIPE. Old pipelines have the files of the network and the
scheduler in PIPE itself.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .files import load_tensors, read_fields
from .weights import RAW, Weights, find_weights, one_set

log = logging.getLogger(__name__)
INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model"
NETWORK, AVERAGE = "unet", "unet_ema"
# Fields that `EMAModel` adds to the configuration of an average; they do not affect the network.
AVERAGING = {
    *("decay", "min_decay", "optimization_step", "update_after_step"),
    *("use_ema_warmup", "inv_gamma", "power"),
}


class Place(NamedTuple):
    """The files of a model.

    Attributes:
        network: Folder of the network's configuration.
        scheduler: Configuration of the scheduler, or None.
        weights: File of the weights if it was given, or None.
        ema: Whether to take the average from a file that has two sets of weights, or None where the
            two sets are in different folders.
    """

    network: Path
    scheduler: Path | None
    weights: Path | None
    ema: bool | None


def root_of(path: Path) -> Path | None:
    """The folder of the pipeline or the network that a path belongs to, or None.

    Files and subfolders of a pipeline that do not belong to a network, such as its scheduler,
    belong to the pipeline.
    """
    for way in _ways(path):
        folder = way if way.is_dir() else way.parent
        if way.is_file() and way.name not in (INDEX, CONFIG, SCHEDULER):
            if way.name.startswith(WEIGHTS):
                return folder
            continue
        if _is_pipeline(folder) or (folder / CONFIG).is_file():
            return folder
        if (folder / SCHEDULER).is_file() and _is_pipeline(folder.parent):
            return folder.parent
    return None


def find_place(path: Path, ema: bool) -> Place:
    """The files of the model of a path: the folder of a pipeline or a network, or a file in one.

    Raises:
        ValueError: The raw weights are requested and there is one set.
    """
    root = root_of(path) or (path.parent if path.is_file() else path)
    chosen: bool | None = ema
    network = root
    if _is_pipeline(root):
        network, chosen = _of_pipeline(root, path, ema)
    elif (twin := _twin(root)) is not None:
        if twin.name == NETWORK and not ema:
            raise ValueError(f"{path} has averaged weights; the raw ones are {twin}, give that")
        if twin.name == AVERAGE and ema:
            log.warning("%s has raw weights; their average is %s", path, twin)
        chosen = None
    return Place(network, _scheduler(network), _named_weights(path), chosen)


def read_weights(place: Place) -> Weights:
    """The weights of a network.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They are damaged, or hold values other than tensors.
    """
    if place.weights is not None:
        return _weights_of(place.weights)
    weights = _weights_in(place.network, WEIGHTS)
    if weights is None:
        variants = sorted(path.name for path in place.network.glob(f"{WEIGHTS}.*"))
        fix = f"; there are {', '.join(variants)}, rename one" if variants else ""
        raise FileNotFoundError(
            f"{place.network} has no {WEIGHTS}.safetensors and no {WEIGHTS}.bin{fix}"
        )
    raw = _weights_in(place.network, f"{WEIGHTS}.non_ema")
    return weights if raw is None else Weights(raw.raw, weights.raw)


def _weights_in(folder: Path, stem: str) -> Weights | None:
    """The weights in the files of a folder that have this stem, or None."""
    for ending in (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json"):
        if (folder / f"{stem}{ending}").is_file():
            return _weights_of(folder / f"{stem}{ending}")
    return None


def read_network(folder: Path) -> dict[str, Any]:
    """The fields of a network's configuration, without those of an average.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged.
    """
    fields = read_config(folder / CONFIG)
    return {name: value for name, value in fields.items() if name not in AVERAGING}


def read_config(path: Path) -> dict[str, Any]:
    """The fields of a configuration.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the folder of a pipeline or a UNet")
    return read_fields(path)


def _ways(path: Path) -> Sequence[Path]:
    """A path as it is given and, where it contains links, as it is stored.

    Both are needed: a link to a network is in no pipeline, and the files of a cache are links to a
    folder without the other files of their model.
    """
    stored = path.resolve()
    named = stored if ".." in path.parts else path.absolute()
    return (named,) if named == stored else (named, stored)


def _named_weights(path: Path) -> Path | None:
    """The path if it is a file of weights or an index of such files, under any name, or None."""
    for way in _ways(path):
        if way.name.endswith(".index.json"):
            return way
        if way.suffix == ".json" or not way.is_file():
            return None
    return path


def _is_pipeline(folder: Path) -> bool:
    inner = any((folder / name / CONFIG).is_file() for name in (NETWORK, AVERAGE))
    return inner or (folder / INDEX).is_file()


def _of_pipeline(root: Path, path: Path, ema: bool) -> tuple[Path, bool | None]:
    """The folder of a pipeline's network, and which of two sets of weights in its file to take."""
    raw, average = ((root / name) for name in (NETWORK, AVERAGE))
    has_raw, has_average = raw.is_dir(), (average / CONFIG).is_file()
    if has_average and (has_raw or ema):
        if ema and has_raw:
            log.warning(
                "%s: took the averaged weights, %s; for the raw ones use %s", *(path, AVERAGE, RAW)
            )
        return (average if ema else raw), None
    if has_average:
        raise one_set(path)
    return (raw if has_raw else root), ema


def _twin(network: Path) -> Path | None:
    """The folder of the average next to that of raw weights, or the reverse, or None."""
    for way in _ways(network):
        other = {NETWORK: AVERAGE, AVERAGE: NETWORK}.get(way.name)
        if other is not None and (way.parent / other / CONFIG).is_file():
            return way.parent / other
    return None


def _scheduler(network: Path) -> Path | None:
    """The configuration of the scheduler in or next to the folder of a network, or None."""
    for folder in _ways(network):
        places = [folder / "scheduler", folder]
        if folder.name in (NETWORK, AVERAGE) or not (folder.parent / CONFIG).is_file():
            places += [folder.parent / "scheduler", folder.parent]
        for one in (folder, folder.parent):
            if one.name.startswith("checkpoint-"):
                places += [one.parent / "scheduler", one.parent]
        for place in places:
            if (place / SCHEDULER).is_file():
                return place / SCHEDULER
    return None


def _weights_of(path: Path) -> Weights:
    """The weights in a file, or in several files according to their index."""
    if path.suffix != ".json":
        return find_weights(load_tensors(path), path)
    places: Mapping[str, Any] | Any = read_config(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(f, str) for f in places.values()):
        raise ValueError(f"{path} has no weight_map from names to files")
    joined: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file:
            raise ValueError(f"{path} names {file}, which is not next to it")
        shard = load_tensors(path.parent / file)
        if sorted(shard) != sorted(name for name, place in places.items() if place == file):
            raise ValueError(f"{path} names other tensors for {file} than it contains")
        joined |= shard
    return Weights(find_weights(joined, path).raw)
