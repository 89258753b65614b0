"""Checkpoints of trainers that store objects of other libraries next to the weights.

PyTorch's safe loader refuses files with unknown classes, but Lightning stores the arguments of a
training next to the weights. Here the classes of such arguments are replaced by stand-ins, which
accept anything and do nothing; files with any other class are still refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

# Classes of settings. A name that ends in a dot is that of a package.
SETTINGS = (
    *("argparse.Namespace", "functools.partial", "omegaconf.", "pathlib.", "typing."),
    *("lightning.", "lightning_fabric.", "lightning_utilities.", "pytorch_lightning."),
    *("torch.optim.", "torch.nn.modules.", "torch.torch_version.TorchVersion"),
)
TYPES = tuple(
    f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool")
)
DICTS = ("collections.defaultdict", "AttributeDict")


class _Nothing:
    """An object that accepts any arguments and any state, and keeps none."""

    __slots__ = ()

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Dict:
    """A plain dict in place of any mapping."""

    def __new__(cls, *args: object) -> Any:  # torch only fills plain dicts
        return {}


def load_among_settings(path: Path, **arguments: Any) -> Any:
    """The tensors and plain values in a zip of `torch.save`, with stand-ins for its settings.

    Raises:
        ValueError: The file names something that is no setting, or has no weights of a trainer.
    """
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    foreign = [name for name in names if not _is_setting(name)]
    if foreign:
        raise ValueError(f"it names {foreign[0][:100]}")
    chosen: list[Any] = [(_Dict if name.endswith(DICTS) else _Nothing, name) for name in names]
    with torch.serialization.safe_globals(chosen):
        found = torch.load(path, weights_only=True, **arguments)
    if not isinstance(found, Mapping) or not isinstance(found.get("state_dict"), Mapping):
        raise ValueError("it has no state_dict of a trainer")
    return found


def _is_setting(name: str) -> bool:
    packages = tuple(known for known in SETTINGS if known.endswith("."))
    return name in (*SETTINGS, *TYPES) or name.startswith(packages) or name.endswith(DICTS)
