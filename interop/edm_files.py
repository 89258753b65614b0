"""The contents of a file of EDM: the tensors of a network, and the settings of its preconditioner.

A pickle of EDM holds the preconditioner as an object around its network. A state dict holds tensors
alone, and its settings come from a configuration.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde.sde.checks import check_choice

from .files import load_tensors
from .pickles import Record, read_pickle
from .weights import find_weights, one_set

_PRECONDITIONERS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve"}
# Default settings of their preconditioners; EDM's are sampled with σ from 0.002 to 80.
_SETTINGS: dict[str, dict[str, float]] = {
    "edm": {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0},
    "vp": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000},
    "ve": {"sigma_min": 0.02, "sigma_max": 100.0},
}


def read_contents(
    source: str | Path | Mapping[str, Tensor], name: str, ema: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file or a state dict, which messages call `name`, and its settings.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, names code, or holds no network of EDM; or ema is false and
            there is one set of weights.
    """
    said: dict[str, Any] = {}
    contents = _opened(source) if isinstance(source, str | Path) else source
    if isinstance(contents, Mapping) and isinstance(contents.get("ema"), Record):
        raw = contents.get("net", contents.get("model"))
        if not ema and not isinstance(raw, Record):
            raise one_set(name)
        contents = contents["ema"] if ema else raw
    elif isinstance(contents, Record) and not ema:
        raise one_set(name)
    if isinstance(contents, Record):
        ema = True  # the set has been chosen
        said, contents = _meaning(contents, name), state_dict(contents)
    if not isinstance(contents, Mapping) or not contents:
        raise ValueError(f"{name} holds no model: neither 'ema' nor tensors by their names")
    weights = find_weights(contents, name)
    trained = [key for key in weights.raw if not key.endswith((".resample_filter", ".freqs"))]
    tensors = weights.chosen(ema, trained, name)
    for key, value in tensors.items():
        if not value.is_floating_point():
            raise ValueError(f"{name} holds {key} of {value.dtype}, expected floating point")
    return {key: value.detach() for key, value in tensors.items()}, said


def _opened(path: str | Path) -> Any:
    path = Path(path)
    if path.suffix in (".pkl", ".pickle"):
        return read_pickle(path)
    if path.suffix not in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"):
        raise ValueError(f"{path} must end in .pkl, .pt, .pth, .ckpt, .bin or .safetensors")
    return load_tensors(path)


def _meaning(record: Record, name: str) -> dict[str, Any]:
    """The settings of a pickled preconditioner and of its network."""
    said: dict[str, Any] = {}
    net = record
    if record.class_name in _PRECONDITIONERS:
        precond = _PRECONDITIONERS[record.class_name]
        net = _modules(record).get("model", record)
        said = {key: record.state[key] for key in _SETTINGS[precond] if key in record.state}
        said["precond"] = precond
        if precond == "edm":
            # A network for any σ has the limits 0 and ∞, which no process can have.
            within = _SETTINGS["edm"]
            low, high = (_number(record.state, key, name) for key in ("sigma_min", "sigma_max"))
            said["sigma_min"] = max(low, within["sigma_min"])
            said["sigma_max"] = min(high, within["sigma_max"])
    if net.class_name != "SongUNet":
        raise ValueError(
            f"{name} holds {net.class_name}; of EDM's classes only EDMPrecond, VPPrecond and "
            "VEPrecond are read, and of its networks SongUNet (DDPM++, NCSN++)"
        )
    blocks = [block for part in _modules(net).values() for block in _modules(part).values()]
    dropout = [block.state["dropout"] for block in blocks if "dropout" in block.state]
    return said | ({"dropout": dropout[0]} if dropout else {})


def _modules(record: Record) -> dict[str, Record]:
    modules = record.state.get("_modules")
    items = modules.items() if isinstance(modules, dict) else ()
    return {key: module for key, module in items if isinstance(module, Record)}


def settings_of(said: dict[str, Any], name: str) -> tuple[str, dict[str, float]]:
    """The preconditioner, and its settings with `dropout`, as a file or a configuration says.

    Raises:
        ValueError: The preconditioner is unknown, does not have a setting, or a setting is no
            number.
    """
    precond = said.pop("precond", "edm")
    check_choice("precond", precond, *_SETTINGS)
    settings = _SETTINGS[precond] | {"dropout": 0.1}
    unknown = sorted(said.keys() - settings.keys())
    if unknown:
        raise ValueError(
            f"the preconditioner '{precond}' takes no {', '.join(unknown)}; "
            f"it takes {', '.join(settings)}"
        )
    settings |= {key: _number(said, key, name) for key in said}
    if settings.get("M", 1000) != 1000:
        raise ValueError(
            f"{name} has M = {settings['M']:g} steps and labels (M - 1) t; the labels of VP here "
            "are 999 t, so M must be 1000"
        )
    return precond, settings


def _number(values: Mapping[str, Any], key: str, name: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} has {key} = {value!r}, expected a number")
    return float(value)


def state_dict(record: Record) -> dict[str, Tensor]:
    """The tensors of a module and its submodules by their names, as in its `state_dict()`.

    Raises:
        ValueError: The record is no module, holds values other than tensors, or holds a module
            twice.
    """
    return dict(_tensors(record, "", set()))


def _tensors(record: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    # A module that contains itself would never end, and shared modules can take exponential time.
    if id(record) in seen:
        raise ValueError(f"the module {prefix.rstrip('.')} is there twice")
    seen.add(id(record))
    kinds = ("_parameters", "_buffers", "_modules")
    if not isinstance(record, Record) or not all(
        isinstance(record.state.get(kind), Mapping) for kind in kinds
    ):
        name = record.class_name if isinstance(record, Record) else type(record).__name__
        raise ValueError(f"{prefix.rstrip('.') or 'the object'} is no module but of {name}")
    parameters, buffers, modules = (record.state[kind] for kind in kinds)
    left_out = record.state.get("_non_persistent_buffers_set") or ()
    kept = {name: value for name, value in buffers.items() if name not in left_out}
    for name, value in [*parameters.items(), *kept.items()]:
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif value is not None:
            raise ValueError(f"{prefix}{name} is no tensor but of {type(value).__name__}")
    for name, module in modules.items():
        if module is not None:
            yield from _tensors(module, f"{prefix}{name}.", seen)
