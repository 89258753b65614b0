"""The fields of score-SDE's configurations: read from a file, and checked for their types."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from scoresde.sde.checks import is_integer

from .files import read_fields

# How to give a configuration, for messages.
GIVE = "config= in Python, checkpoint_config=FILE for run.py, --config FILE for convert.py"


def _count(value: Any, least: int = 1) -> bool:
    return is_integer(value) and value >= least


def _list(value: Any, least: int = 0) -> bool:
    return isinstance(value, list | tuple) and all(_count(one, least) for one in value)


_SWITCHES = "conditional fir skip_rescale resamp_with_conv scale_by_sigma centered continuous"
_NUMBERS = "dropout sigma_min sigma_max beta_min beta_max fourier_scale init_scale ema_rate"
_STRINGS = (
    "name resblock_type progressive progressive_input progressive_combine embedding_type "
    "normalization nonlinearity sde"
)
_TYPES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    (_SWITCHES, "true or false", lambda value: isinstance(value, bool)),
    ("nf num_res_blocks num_scales num_channels", "an integer ≥ 1", _count),
    ("image_size", "an integer ≥ 1", lambda value: value is None or _count(value)),
    (_NUMBERS, "a number", lambda v: isinstance(v, int | float) and not isinstance(v, bool)),
    ("ch_mult", "a list of integers", lambda value: _list(value, 1)),
    ("attn_resolutions attn_levels fir_kernel", "a list of integers", _list),
    (_STRINGS, "a string", lambda value: isinstance(value, str)),
)
_FIELDS = {name: (kind, fits) for names, kind, fits in _TYPES for name in names.split()}


def read_configuration(config: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """A configuration as plain dicts, from a mapping or from a JSON or YAML file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A section or field of score-SDE's configurations is missing, or has a wrong
            type.
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
        if "channels" in part:  # the name in configurations of NCSN
            part.setdefault("num_channels", part["channels"])
        missing = [field for field in fields if field not in part]
        if missing:
            raise ValueError(f"{source} lacks {section}.{missing[0]}, which score-SDE's have")
        config[section] = {k: _checked(f"{source}: {section}.{k}", k, v) for k, v in part.items()}
    return dict(config)


def _checked(place: str, name: str, value: Any) -> Any:
    """The value of a field, if it has the field's type; numbers may be strings, as 1e-2 in YAML."""
    if name not in _FIELDS:
        return value
    kind, fits = _FIELDS[name]
    if kind == "a number" and isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if not fits(value):
        raise ValueError(f"{place} must be {kind}, got {value!r}")
    return value
