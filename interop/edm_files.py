"""What a file of EDM holds: the tensors of a network, and what it says of their meaning.

A pickle of EDM has the preconditioner as an object around its network; a state dict has tensors
alone, and its meaning comes from a configuration.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde.sde.checks import check_choice

from .files import load_tensors
from .pickles import Record, read_pickle, state_dict
from .weights import find_weights, one_set

_PRECONDITIONERS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve"}
# What their preconditioners take, and what EDM's are sampled with: σ from 0.002 to 80.
_SETTINGS: dict[str, dict[str, float]] = {
    "edm": {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0},
    "vp": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000},
    "ve": {"sigma_min": 0.02, "sigma_max": 100.0},
}


def read_contents(
    source: str | Path | Mapping[str, Tensor], name: str, ema: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and what the file says of their meaning.

    Args:
        source: A file, or a state dict.
        name: The file, as errors name it.
        ema: Whether to take the averaged weights where there are both.

    Raises:
        FileNotFoundError: There is no file.
        ValueError: It is damaged, names code, or holds no network of EDM; or ema is false and there
            is one set of weights.
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
        ema = True  # of the two sets, this one
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
    """What a pickled preconditioner says of itself and of its network."""
    said: dict[str, Any] = {}
    net = record
    if record.class_name in _PRECONDITIONERS:
        precond = _PRECONDITIONERS[record.class_name]
        net = _modules(record).get("model", record)
        said = {key: record.state[key] for key in _SETTINGS[precond] if key in record.state}
        said["precond"] = precond
        if precond == "edm":
            # A network that takes any σ says so by 0 and ∞, which no process can have.
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
    """The preconditioner, and its settings with `dropout`.

    Args:
        said: `precond` and settings, as a file or a configuration says them.
        name: The file, as errors name it.

    Raises:
        ValueError: There is no such preconditioner, or a setting is not its own, or no number.
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
            f"{name} has M = {settings['M']:g} steps, and its labels are of (M - 1) t; "
            "those of VP here are of 999 t, so M must be 1000"
        )
    return precond, settings


def _number(values: Mapping[str, Any], key: str, name: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} has {key} = {value!r}, expected a number")
    return float(value)
