"""The fields of score-SDE's configurations: read from a file, and of the kinds they should be."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .files import read_fields

# How a configuration is given.
GIVE = "config= in Python, checkpoint_config=FILE for run.py, --config FILE for convert.py"
# What kind each field is of.
SWITCHES = ("conditional", "fir", "skip_rescale", "resamp_with_conv", "scale_by_sigma")
PLACES = ("centered", "continuous")
COUNTS = ("nf", "num_res_blocks", "num_scales", "image_size", "num_channels")
NUMBERS = (
    *("dropout", "sigma_min", "sigma_max", "beta_min", "beta_max"),
    *("fourier_scale", "init_scale", "ema_rate"),
)
LISTS = ("ch_mult", "attn_resolutions", "attn_levels", "fir_kernel")
WORDS = (
    *("name", "resblock_type", "progressive", "progressive_input", "progressive_combine"),
    *("embedding_type", "normalization", "nonlinearity", "sde"),
)


def read_configuration(config: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """A configuration as plain dicts, from a mapping or from a JSON or YAML file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has not the sections of score-SDE's configurations.
    """
    if isinstance(config, str | Path):
        return _check(read_fields(Path(config)), str(config))
    if not hasattr(config, "items"):  # ml_collections.ConfigDict is no Mapping
        raise ValueError(f"a configuration is a mapping or a file, got {type(config).__name__}")
    return _check({str(k): _plain(v) for k, v in config.items()}, "the configuration")


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):  # also ml_collections.ConfigDict
        return {str(k): _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _check(config: Any, source: str) -> dict[str, Any]:
    wanted = {
        "model": ("name", "nf"),
        "data": ("image_size", "num_channels", "centered"),
        "training": ("sde", "continuous"),
    }
    for section, fields in wanted.items():
        part = config.get(section) if isinstance(config, dict) else None
        part = part if isinstance(part, dict) else {}
        if "channels" in part:  # as NCSN's have it
            part.setdefault("num_channels", part["channels"])
        missing = [field for field in fields if field not in part]
        if missing:
            raise ValueError(f"{source} lacks {section}.{missing[0]}, which score-SDE's have")
        config[section] = {k: _typed(f"{source}: {section}.{k}", k, v) for k, v in part.items()}
    return dict(config)


def _typed(place: str, name: str, value: Any) -> Any:
    """A field's value, refused where it is of another kind than the field's.

    A number may be a string: YAML takes 1e-2 for one.
    """
    if name in NUMBERS and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if name in (*SWITCHES, *PLACES):
        fits, kind = isinstance(value, bool), "true or false"
    elif name in COUNTS:
        fits, kind = _is_count(value) or (name == "image_size" and value is None), "an integer ≥ 1"
    elif name in NUMBERS:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits, kind = number, "a number"
    elif name in LISTS:
        listed = isinstance(value, list | tuple)
        fits = listed and all(_is_count(one) or (name != "ch_mult" and one == 0) for one in value)
        kind = "a list of integers"
    elif name in WORDS:
        fits, kind = isinstance(value, str), "a word"
    else:
        return value
    if not fits:
        raise ValueError(f"{place} must be {kind}, got {value!r}")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
