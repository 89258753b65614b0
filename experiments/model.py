"""Objects and scores built from the configuration of a run."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from scoresde.models import ScoreModel
from scoresde.models.file import whole
from scoresde.models.names import fitted
from scoresde.sde import SDE, current_names
from scoresde.sde.description import current_name


def make(leaf: DictConfig | Mapping[str, Any] | None, **wires: Any) -> Any:
    """The object of a leaf of the configuration, with plain lists and dicts as arguments.

    Wires are further arguments, which replace those of the leaf that have the same name.
    """
    if isinstance(leaf, DictConfig):
        leaf = OmegaConf.to_container(leaf, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    return None if leaf is None else instantiate(current_names(leaf), _convert_="all", **wires)


def score_model(
    settings: Mapping[str, Any],
    sde: SDE,
    shape: Sequence[int],
    data_range: tuple[float, float] | None,
    classes: int | None = None,
    image: Mapping[str, Any] | None = None,
) -> ScoreModel:
    """The score of a configuration.

    Args:
        settings: The section `model` of a configuration, as plain values.
        sde: Process.
        shape: Shape of a sample.
        data_range: Interval of the data; None for points.
        classes: Number of classes on which it is conditioned; None for none.
        image: Arguments of a network that sees an image as its condition; None for none.

    Raises:
        ValueError: The network takes no classes, or no image.
    """
    wires: dict[str, Any] = {"shape": tuple(shape)}
    if classes is not None:
        name = current_name(str(settings["net"]["_target_"]))
        if "classes" not in inspect.signature(get_object(name)).parameters:
            raise ValueError(
                f"condition=label needs a network with class labels, and {name} has none; use "
                "model=unet, or model=mlp for points"
            )
        wires["classes"] = classes
    if image is not None:
        name = current_name(str(settings["net"]["_target_"]))
        if "condition_channels" not in inspect.signature(get_object(name)).parameters:
            raise ValueError(
                f"this condition needs a network that sees images, and {name} does not; use "
                "model=unet"
            )
        wires |= image
    features = settings.get("fourier_features")
    if features or settings.get("learned_variance"):
        channels, *size = shape
        wires["shape"] = (channels * (1 + 2 * len(features or ())), *size)
        wires["out_channels"] = channels * (2 if settings.get("learned_variance") else 1)
    net = make(settings["net"], **wires)
    meaning = {key: value for key, value in settings.items() if key != "net"}
    return ScoreModel(net, sde, data_range=data_range, **meaning)


def fill(module: nn.Module, state: Mapping[str, Any], source: object) -> None:
    """Give a network the weights of a checkpoint, with or without the prefixes of wrappers.

    Raises:
        ValueError: They do not fit; the source is named.
    """
    with whole(source):
        module.load_state_dict(fitted(state, module.state_dict()))
