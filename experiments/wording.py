"""Errors in the words of the command line: its keys, its choices, its spelling.

The classes speak of their arguments, as Python has them. On a command line `steps` is
`sampler.steps`, `grid=log_snr` is `sampler/grid=log_snr`, `DDIM()` is `sampler/predictor=ddim`,
and None is null.
"""

import functools
import re

from hydra.errors import InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue

from .choices import CONF, group_of, groups
from .kinds import typed
from .settings import asked, keys

VALUES = {str(value): typed(value) for value in (None, True, False)}
# Advice of a sentence, in Python's notation.
ARGUMENT = re.compile(r"\b(?<=use |set |add |.or )([a-z_]+)=([\w.+-]+)")
CALL = re.compile(r"\b(?<=use |.or |.as )([A-Z]\w+)\(\)")


def as_typed(error: BaseException, cfg: DictConfig | None = None) -> str:
    """One sentence about an error of a run, with the keys that a user can change.

    Hydra wraps what a constructor raised; its cause is the sentence.
    """
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set and has no default; add {error.full_key}=VALUE"
    cause = error.__cause__ if isinstance(error, InstantiationException) else None
    sentence = in_keys(str(cause or error), set() if cfg is None else set(keys(cfg)), _settings())
    if not isinstance(cause or error, TypeError):
        return sentence
    if sentence.startswith("'"):  # Python's own words
        sentence = f"a value is of the wrong kind ({sentence})"
    given = _settings()
    if isinstance(cause, TypeError):
        key = getattr(error, "full_key", "") or str(error).rpartition("full_key: ")[2]
        sentence = f"{key.strip()} cannot be built with these settings: {sentence}"
        given = [setting for setting in given if setting.startswith(f"{key.strip()}.")]
    return f"{sentence}; given were {', '.join(given)}" if given else sentence


def in_keys(sentence: str, known: set[str], given: list[str]) -> str:
    """What a class says, with keys of the command line instead of Python's arguments.

    Where several of the known keys end alike, the settings that were given are meant.
    """
    mine = {setting.partition("=")[0].lstrip("+") for setting in given}
    sentence = re.sub(r"(?<=got )(None|True|False)\b", lambda found: VALUES[found[0]], sentence)
    sentence = CALL.sub(lambda found: _targets().get(found[1], found[0]), sentence)

    def named(found: re.Match[str]) -> str:
        key = _key(found[1], known, mine)
        return f"{key}={VALUES.get(found[2], found[2])}" if key else found[0]

    sentence = ARGUMENT.sub(named, sentence)
    first = sentence.removeprefix("unknown ").partition(" ")[0]
    ends = [key for key in mine if key.endswith(f".{first}")]
    return sentence.replace(first, ends[0], 1) if len(ends) == 1 else sentence


def _key(name: str, known: set[str], given: set[str]) -> str | None:
    """The key or the group of which an argument's name is the last part; None where it is whole."""
    if name in known or name in groups():
        return None
    for names, mark in ((given, "."), (set(groups()), "/"), (known, ".")):
        ends = [one for one in names if one.endswith(f"{mark}{name}")]
        if len(ends) == 1:
            return ends[0]
    return None


@functools.cache
def _targets() -> dict[str, str]:
    """The first choice of each class that conf/ names at the top of a file."""
    targets: dict[str, str] = {}
    for group, names in groups().items():
        for name in names:
            text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
            target = re.search(r"^_target_: \S*\.(\w+)$", text, re.MULTILINE)
            if target is not None:
                targets.setdefault(target[1], f"{group}={name}")
    return targets


def _settings() -> list[str]:
    """The settings, and not the choices, that the command of this run has."""
    return [one for one in asked() if "=" in one and group_of(one.partition("=")[0]) is None]
