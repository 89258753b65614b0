"""Values of the command line are of the kind that their settings have in conf/."""

import math
from typing import Any

# The numbers in these sections are checked with their bounds when a run is built.
CHECKED = ("seed", "train", "evaluate")


def check_kind(key: str, given: Any, default: Any) -> None:
    """Refuse a value that would be misread, or would fail with an error of Python's own.

    Bounds are left to the classes, and so is null, which some of them take in place of a number.

    Raises:
        ValueError: The value is of another kind than its default in conf/, if that is not null.
    """
    if any(v is None or (isinstance(v, str) and "${" in v) for v in (given, default)):
        return
    if isinstance(default, dict):
        if not isinstance(given, dict):
            names = ", ".join(f"{key}.{name}" for name in list(default)[:4])
            raise ValueError(
                f"{key} has settings of its own, got {typed(given)}; name one: {names}"
            )
        return
    if kind := _kind(key, given, default):
        section = key.rpartition(".")[0]
        where = f"{section} cannot be built with these settings: " if section else ""
        raise ValueError(f"{where}{key} must be {kind}, got {typed(given)}")


def typed(value: Any) -> str:
    """A value as a command line has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _kind(key: str, given: Any, default: Any) -> str | None:
    """What a value must be and is not."""
    if isinstance(default, bool):
        return None if isinstance(given, bool) else "true or false"
    if isinstance(default, list):
        return None if isinstance(given, list) else "a list, such as [1,2]"
    if isinstance(default, str) or (key.partition(".")[0] in CHECKED and key.count(".") < 2):
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        return "an integer" if isinstance(default, int) else "a number"
    return "finite" if isinstance(default, int) and math.isinf(given) else None
