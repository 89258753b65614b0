"""The command line: checked before anything is built, with errors of one sentence.

Nothing is imported here but Hydra, which reads conf/ by its own rules: torch and the toolkit take
seconds, and a wrong command is answered before.
"""

import argparse
import re
import sys
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from .choices import CONF, check_choices, group_of
from .quoting import parse, read

# The one pair of tasks that goes together, in either order.
BOTH = re.compile(r"task=\[\s*(sample\s*,\s*likelihood|likelihood\s*,\s*sample)\s*\]")


def check(arguments: list[str]) -> list[str]:
    """The arguments for Hydra, each with the value that the user means.

    Leaves with exit code 2 and one sentence if a group, a choice or a key does not exist, or a
    value cannot be read; and with 0 after --help and other options that run nothing.
    """
    given, options = _options(arguments)
    if given.config_path or given.config_name or given.config_dir or given.shell_completion:
        return [*given.overrides, *options]  # of other settings than those of conf/
    multirun = given.multirun or "hydra.mode=MULTIRUN" in given.overrides
    try:
        overrides = [_readable(override, multirun) for override in given.overrides]
        if overrides:
            check_choices(overrides, multirun)
    except ValueError as error:
        fail(error)
    if given.help or given.hydra_help or given.cfg or given.info:
        _show([*overrides, *options])
    return [*overrides, *options]


def named(arguments: list[str]) -> list[str]:
    """The arguments, with whole names where a short one stands for them.

    resume=X is resume.from=X, and task=[sample,likelihood] is task=likelihood task.draw=true.
    """
    whole = []
    for one in arguments:
        if BOTH.fullmatch(one):
            whole += ["task=likelihood", "task.draw=true"]
        else:
            whole.append(re.sub(r"^(\+*)resume=(?!\{)", r"\1resume.from=", one))
    return whole


def fail(message: object) -> NoReturn:
    """Print one sentence and leave with exit code 2."""
    sentence = re.sub(r"\s*\n\s*", " ", str(message).strip())
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(2)


def _options(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's options as it reads them, with the overrides between them, and as they were typed."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        given, unknown = parser.parse_known_intermixed_args(arguments)
    except argparse.ArgumentError as error:
        fail(f"{error}; --hydra-help lists the options")
    if unknown:
        fail(
            f"unknown option {unknown[0]}; settings have no dashes, as sde=vp, and --hydra-help "
            "lists the options"
        )
    if given.experimental_rerun:
        fail(
            "--experimental-rerun reads a pickle, which can run anything; a run's config.yaml has "
            "its settings"
        )
    if given.resolve and not (given.cfg or given.help):
        fail("--resolve belongs to --cfg job or --help")
    if sum(map(bool, (given.run, given.multirun, given.cfg, given.info))) > 1:
        fail("only one of --run, --multirun, --cfg and --info can be asked for")
    left, options = list(given.overrides), []
    for argument in arguments:
        if left and argument == left[0]:
            left.pop(0)
        else:
            options.append(argument)
    return given, options


def _readable(override: str, multirun: bool) -> str:
    """An override that Hydra reads as the user means it."""
    if override.startswith("~"):  # ~key removes a key
        return override
    if "=" not in override:
        raise ValueError(
            f"'{override}' is not an override; use key=value or group=choice, with no space"
        )
    key, _, value = override.partition("=")
    if group_of(key) is None:
        return read(override, multirun)
    if parse(override) is None or not value.strip():
        raise ValueError(f"{override} names no choice; give one as {key}=NAME, or leave it out")
    return override


def _show(arguments: list[str]) -> NoReturn:
    """Let Hydra print what its options ask for, without what a run would import."""

    def run(cfg: DictConfig) -> None:
        """Not called: these options run nothing."""

    sys.argv[1:] = arguments
    hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(run)()
    sys.exit(0)
