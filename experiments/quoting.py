"""Values of a command line: paths as they are typed, numbers as YAML has them, the rest by Hydra.

Hydra reads a value by a grammar in which `= , ( # &` and others have a meaning of their own. A path
is taken as it is typed, with `~` for the home folder; only a backslash, `${…}`, quotes around the
whole and, with -m, the commas between several keep the meaning that the grammar gives them.
"""

import math
import os
import re
import shlex
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException

from .settings import nodes

# The last names of keys whose values are paths; each is a key of conf/ or of Hydra.
PATHS = (
    *("root", "checkpoint", "checkpoint_config", "from", "estimator", "flow", "score", "dir"),
    *("image", "mask", "bad", "target", "classifier"),
)
COMMA = re.compile(r""",(?=(?:[^'"]|"[^"]*"|'[^']*')*$)""")  # outside quotes
SWEEP = re.compile(r"\s*(choice|shuffle|sort|tag|glob)\(")
HOME = re.compile(r"""(^|[,(\[]\s*)(["']?)(~[^/,)\]"']*)""")
INTERPOLATION = re.compile(r"\$\{[^{}]+\}")
# A number on its own, or in a list or a sweep.
START, END = r"(?<![^\s,(\[:])", r"(?![^\s,)\]}])"
SPECIAL = re.compile(rf"{START}([+-]?)\.(inf|nan){END}", re.IGNORECASE)
POWER = re.compile(rf"{START}[+-]?[\d_]+(?:\.[\d_]*)?e\+?\d+{END}", re.IGNORECASE)


def read(argument: str, multirun: bool) -> str:
    """The override by which Hydra takes key=value as its user means it; with -m also a sweep.

    Raises:
        ValueError: There is no value, it is no number, or it cannot be read without quotes.
    """
    key, _, text = argument.partition("=")
    if not key or parse(f"{key}=0") is None:
        raise ValueError(f"'{key}' is not the name of a setting; use key=value, with no space")
    if not text.strip():
        raise ValueError(f"{key}= has no value; give one, {key}=null for none, or leave it out")
    is_path = "/" not in key and key.lstrip("+").rpartition(".")[2] in PATHS
    text = _paths(text, multirun) if is_path else _numbers(text)
    override = parse(f"{key}={text}")
    if override is None and re.search(r"[\n\r]", text):
        raise ValueError(f"the value of {key} has a line break, which no setting takes")
    if override is None:
        raise ValueError(
            f"the value of {key} has characters with a meaning of their own; to take it as it is, "
            f"write {shell(key, text)}"
        )
    if any(isinstance(one, float) and math.isnan(one) for _, one in nodes(values(override))):
        raise ValueError(f"{argument} is not a number; give one that a setting can have")
    return f"{key}={text}"


def shell(key: str, text: str) -> str:
    """key=value as bash hands it to Hydra, and Hydra takes the value as it is."""
    return shlex.quote(f"{key}={quoted(text)}")


def quoted(text: str) -> str:
    """A text in the quotes of Hydra's grammar; well-formed interpolations stay what they are."""
    if not INTERPOLATION.search(text):
        text = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", text)
    return QuotedString(text, Quote.double).with_quotes()


def parse(argument: str) -> Override | None:
    """The override that Hydra reads in an argument; None where it cannot be read."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def values(override: Override) -> list[Any]:
    """The values of a sweep as far as they are listed, or the one value."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return [getattr(one, "text", one) for one in value.list]
    return [] if override.is_sweep_override() else [value]


def _paths(text: str, multirun: bool) -> str:
    """One path, or several of a sweep."""
    if not multirun:
        return _path(text)
    if SWEEP.match(text):
        return HOME.sub(lambda found: found[1] + found[2] + os.path.expanduser(found[3]), text)
    return ",".join(_path(part.strip()) for part in COMMA.split(text))


def _path(text: str) -> str:
    """One path, in quotes unless the grammar leaves it as it is."""
    override = parse(f"k={text}")
    swept = override is None or override.is_sweep_override()
    value = None if override is None or swept else override.value()
    if isinstance(value, str) and text.strip()[:1] in "'\"":
        return quoted(os.path.expanduser(value)) if value.startswith("~") else text
    if not swept and (value is None or (isinstance(value, str) and value != text.strip())):
        return text  # null, an escape, a function
    path = os.path.expanduser(text)
    return text if value == path else quoted(path)


def _numbers(text: str) -> str:
    """.inf and .nan of YAML, and powers of ten that are integers, as Hydra writes them."""
    if "'" in text or '"' in text:
        return text
    return POWER.sub(_integer, SPECIAL.sub(r"\1\2", text))


def _integer(found: re.Match[str]) -> str:
    number = float(found[0])
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else found[0]
