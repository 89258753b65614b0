"""Config groups, their choices and the keys of a command, by Hydra's own reading of conf/.

What Hydra composes is right, but for several choices of one group, which it merges. Only what it
refuses is looked at here, to say in one sentence what there is instead.
"""

import difflib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from .kinds import check_kind, typed
from .moved import check_moved
from .quoting import parse, values
from .settings import keys

CONF = Path(__file__).resolve().parents[1] / "conf"
LISTS = ("logger",)  # groups of which several choices make sense at once
REFUSALS = (HydraException, OmegaConfBaseException, ValueError)


@functools.cache
def groups() -> dict[str, list[str]]:
    """Every config group with its choices, read from the folders of conf/."""
    groups: dict[str, list[str]] = {}
    for file in sorted(CONF.rglob("*.yaml")):
        if file.parent != CONF:
            groups.setdefault(file.parent.relative_to(CONF).as_posix(), []).append(file.stem)
    return groups


def group_of(key: str) -> str | None:
    """The config group that a key chooses from, which `@` may put elsewhere; None for a setting."""
    group = key.lstrip("+").partition("@")[0]
    return group if group in groups() or group.startswith("hydra/") else None


def check_choices(overrides: list[str], multirun: bool) -> None:
    """Refuse groups, choices and keys that do not exist, and values of a wrong kind.

    Args:
        overrides: Overrides as Hydra reads them.
        multirun: Whether values may be sweeps, of which the combinations are checked in which one
            value is not the first of its sweep.

    Raises:
        ValueError: Hydra would refuse the command, or would merge several choices into one.
    """
    for override in overrides:
        check_moved(override)
        _check_list(override)
    swept = [_swept(override, multirun) for override in overrides]
    if not all(swept):
        return  # only Hydra knows what glob(…) matches
    first = [choices[0] for choices in swept]
    plans = [first]
    for index, choices in enumerate(swept):
        plans += [[*first[:index], other, *first[index + 1 :]] for other in choices[1:]]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for plan in plans:
            _check(plan)
        _check_kinds(overrides, first)


def _check_list(override: str) -> None:
    """Refuse group=[one,other], which Hydra would merge."""
    key, _, value = override.partition("=")
    group = group_of(key)
    if group is not None and value.startswith("[") and group not in LISTS:
        raise ValueError(
            f"{group} takes one choice, got {value}; "
            f"to run each of them use -m {group}={value.strip('[]').replace(' ', '')}"
        )


def _swept(override: str, multirun: bool) -> list[str]:
    """An override for each choice of a sweep over a group, and for the first value of others."""
    key = override.partition("=")[0]
    parsed = parse(override)
    if not multirun or parsed is None or not parsed.is_sweep_override():
        return [override]
    if not isinstance(parsed.value(), ChoiceSweep | RangeSweep):
        return []
    each = [f"{key}={value}" for value in parsed.sweep_string_iterator()]
    return each if group_of(key) is not None else each[:1]


def _check(overrides: list[str]) -> None:
    """Compose the configuration, or name existing choices and keys in the error."""
    try:
        compose("config", overrides=overrides)
    except REFUSALS as error:
        for override in overrides:
            _explain_choice(override)
        _explain_keys(overrides)
        raise ValueError(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    unused = re.match(r"Could not override '([^']+)'\. No match in the defaults list", str(error))
    if unused is not None:
        parent, _, part = unused[1].rpartition("/")
        return f"{unused[1]} does not apply here: the chosen {parent} has no {part}"
    said = str(error).partition("Config search path")[0]
    return " ".join([line.strip() for line in said.splitlines() if line.strip()][:12])


def _explain_choice(override: str) -> None:
    """Say which choices a group has, and how several are run."""
    key, _, value = override.partition("=")
    group, parsed = group_of(key), parse(override)
    if parsed is None or override.startswith("~"):
        return
    if parsed.is_sweep_override():
        what = "choices" if group else "values"
        wanted = "all at once" if group else "a list"
        fix = f", or {key}=[{value}] for {wanted}" if group in (None, *LISTS) else ""
        raise ValueError(f"{override} names several {what}; add -m to run each of them{fix}")
    for given in values(parsed) if group in groups() else []:
        for name in given if isinstance(given, list) else [given]:
            if (CONF / str(group) / f"{name}.yaml").is_file():
                continue
            near = difflib.get_close_matches(str(name), groups()[str(group)], 1)
            hint = f" Did you mean {group}={near[0]}?" if near else ""
            hint = " To choose nothing, leave it out." if name is None else hint
            available = ", ".join(groups()[str(group)])
            raise ValueError(f"unknown {group}={typed(name)}.{hint} Choices: {available}")


def _explain_keys(overrides: list[str]) -> None:
    """Name the keys that exist next to an unknown one."""
    known = _known(overrides)
    for key, _ in _settings(overrides):
        if key in known:
            continue
        near = difflib.get_close_matches(key, [*known, *groups()], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        section = key.rpartition(".")[0]
        there = sorted(one for one in known if one.rpartition(".")[0] == section)
        siblings = ", ".join(one for one in there if not one.endswith("_target_"))
        raise ValueError(f"unknown key '{key}'.{hint} Keys there: {siblings or 'none'}")


def _check_kinds(overrides: list[str], first: list[str]) -> None:
    """Refuse values of another kind than conf/ has, and choices that lack their slash."""
    settings = list(_settings(overrides))
    known = _known(first) if settings else {}
    for key, parsed in settings:
        group = key.replace(".", "/")
        for given in values(parsed):
            if "/" in group and group in groups() and isinstance(given, str):
                raise ValueError(f"{key} is chosen with a slash: write {group}={given}")
            check_kind(key, given, known.get(key))


def _settings(overrides: list[str]) -> Iterator[tuple[str, Override]]:
    """The settings of conf/ that overrides change, which are neither choices nor new keys."""
    for override in overrides:
        key, parsed = override.partition("=")[0], parse(override)
        if parsed and not group_of(key) and not key.startswith(("+", "~", "hydra.")):
            yield key, parsed


def _known(overrides: list[str]) -> dict[str, Any]:
    """The keys that the chosen groups have, with their values before any setting is changed."""
    chosen = [one for one in overrides if group_of(one.partition("=")[0]) is not None]
    try:
        return keys(compose("config", overrides=chosen))
    except REFUSALS as error:
        raise ValueError(_sentence(error)) from error
