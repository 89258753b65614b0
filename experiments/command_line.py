"""Checks of a command line before anything is built, with errors of one sentence."""

import difflib
import functools
import itertools
import re
import sys
from pathlib import Path
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONF = Path(__file__).resolve().parents[1] / "conf"
LISTS = ("logger",)  # groups of which several choices make sense at once


def check(arguments: list[str]) -> None:
    """Leave with exit code 2 and one sentence if a group, a choice or a key does not exist.

    Args:
        arguments: Command line after the program's name.
    """
    flags = [a for a in arguments if a.startswith("-")]
    if any(flag not in ("-m", "--multirun") for flag in flags):
        return  # --help, --cfg and the like are Hydra's business
    overrides = [a for a in arguments if a not in flags]
    strays = [a for a in overrides if "=" not in a and not a.startswith("~")]
    if strays:
        fail(f"'{strays[0]}' is not an override; use key=value or group=choice")
    ours = [o for o in overrides if "=" in o and not o.lstrip("+").startswith("hydra")]
    if any("(" in o for o in ours) and flags:
        return  # choice(…), range(…), glob(…): sweeps that only Hydra can spell out
    swept = [_check_choice(override, bool(flags)) for override in ours]
    for plain in itertools.product(*swept):
        _check_keys(list(plain))


def named(arguments: list[str]) -> list[str]:
    """The arguments, with the key's whole name where resume=X stands for resume.from=X."""
    return [re.sub(r"^(\+*)resume=(?!\{)", r"\1resume.from=", one) for one in arguments]


def fail(message: object) -> NoReturn:
    """Print one sentence and leave with exit code 2."""
    sentence = " ".join(str(message).split())
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(2)


@functools.cache
def _groups() -> dict[str, list[str]]:
    """Every config group with its choices, read from the folders of conf/."""
    groups: dict[str, list[str]] = {}
    for file in sorted(CONF.rglob("*.yaml")):
        if file.parent != CONF:
            groups.setdefault(file.parent.relative_to(CONF).as_posix(), []).append(file.stem)
    return groups


def _check_choice(override: str, multirun: bool) -> list[str]:
    """Check group=choice; return the override for each choice of a sweep."""
    key, value = override.split("=", 1)
    groups, group = _groups(), _group(key)
    if group not in groups:
        return [f"{key}={_first(value)}" if multirun else override]
    if value.startswith("[") and group not in LISTS:
        fail(
            f"{group} takes one choice, got {value}; "
            f"to run each of them use -m {group}={value.strip('[]').replace(' ', '')}"
        )
    named = [part.strip() for part in value.strip("[]").split(",")]
    if len(named) > 1 and not multirun and not value.startswith("["):
        fail(f"{group}={value} names several choices; add -m to run each of them")
    for name in named:
        if name not in groups[group]:
            near = difflib.get_close_matches(name, groups[group], 1)
            hint = f" Did you mean {group}={near[0]}?" if near else ""
            available = ", ".join(groups[group]) or "none yet"
            fail(f"unknown {group}='{name}'.{hint} Choices: {available}")
    return [override] if value.startswith("[") else [f"{key}={name}" for name in named]


def _group(key: str) -> str:
    """The group of a choice, which `@` may put elsewhere."""
    return key.lstrip("+").partition("@")[0]


def _first(value: str) -> str:
    """The first of a sweep's values; lists and quotes are left to Hydra."""
    return value if value[:1] in "[{'\"" else value.split(",")[0]


def _check_keys(overrides: list[str]) -> None:
    """Compose the configuration, with a hint where a key is not in it."""
    groups = _groups()
    chosen = [o for o in overrides if _group(o.split("=", 1)[0]) in groups]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = _compose(chosen)
        known = _keys(config)
        for override in overrides:
            key = override.split("=", 1)[0]
            if _group(key) in groups or key.startswith(("+", "~")) or key in known:
                continue
            near = difflib.get_close_matches(key, known, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            siblings = sorted(k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0])
            fail(f"unknown key '{key}'.{hint} Keys there: {', '.join(siblings) or 'none'}")
        _compose(overrides)


def _compose(overrides: list[str]) -> DictConfig:
    try:
        return compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        unused = re.match(
            r"Could not override '([^']+)'\. No match in the defaults list", str(error)
        )
        if unused is not None:
            parent, _, part = unused[1].rpartition("/")
            fail(f"{unused[1]} does not apply here: the chosen {parent} has no {part}")
        lines = [line for line in str(error).splitlines() if line.strip()]
        fail(" ".join(lines[:2]))


def _keys(config: DictConfig, prefix: str = "") -> set[str]:
    """Dotted names of all keys."""
    names: set[str] = set()
    for key in config:
        name = f"{prefix}{key!s}"
        names.add(name)
        node = config._get_node(key)
        if OmegaConf.is_dict(node):
            names |= _keys(node, f"{name}.")  # type: ignore[arg-type]
    return names
