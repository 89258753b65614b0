"""Every block of the README and of docs/ runs, or is accepted by the program that it names.

Python blocks of a page run in order in one namespace, as a reader would type them. A block that
trains, downloads or belongs to the reader's own project follows a comment `<!-- dry: reason -->`;
it is compiled alone, and its imports are resolved. Commands are composed by the check of the
command line; those of `data=mixture` run, with `dry_run=true` added.
"""

import argparse
import ast
import importlib
import json
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from scoresde.experiments import choices, command_line, convert, table
from tests.docs.pages import INLINE, LANGUAGES, PAGES, blocks, prose
from tests.experiments.runs import start
from tests.places import ROOT

RUN = (["python", "experiments/run.py"], ["scoresde"])
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = [group for group in choices.groups() if group.startswith("sampler/")]
# Every setting of every choice, by its full name.
SETTINGS = {
    f"{prefix}{key}"
    for path in [ROOT / "conf" / "config.yaml", *(ROOT / "conf").glob("*/**/*.yaml")]
    for prefix in [".".join([*path.relative_to(ROOT / "conf").parts[:-1], ""])]
    for key in choices.keys(OmegaConf.load(path))
}
# The choices that the examples of CONTRIBUTING.md add.
OWN = {
    path.removesuffix(".yaml"): text
    for block in blocks("CONTRIBUTING.md", "yaml")
    for path, text in [block.text.removeprefix("# conf/").split("\n", 1)]
}


def shell(text):
    """The commands of a shell block as lists of words, without comments and ellipses."""
    for line in text.replace("\\\n", " ").splitlines():
        words, command = shlex.split(line, comments=True), []
        for word in [*words, "&&"]:
            if word != "&&":
                command += [word] * (word != "…")
            elif command:
                yield command
                command = []


COMMANDS = {
    shlex.join(command): (f"{page}:{block.line}", command)
    for page in PAGES
    for block in blocks(page, "bash")
    for command in shell(block.text)
}
RUNS = [
    pytest.param(command[len(program) :], id=shlex.join(command))
    for _, command in COMMANDS.values()
    for program in RUN
    if command[: len(program)] == program
]
OTHERS = [
    pytest.param(command, id=shlex.join(command))
    for _, command in COMMANDS.values()
    if all(command[: len(program)] != program for program in RUN)
]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_names_its_language(page):
    assert {block.language for block in blocks(page)} <= set(LANGUAGES)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CONTRIBUTING.md"])
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    """Each block runs after the others of its page and prints what its comments say.

    A dry block compiles, and its imports exist.
    """
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace = {}
    for block in blocks(page, "python"):
        place = f"{page}:{block.line}"
        code = compile(block.text, place, "exec")
        if block.dry is None:
            capsys.readouterr()
            exec(code, namespace)
            check_printed(block.text, capsys.readouterr().out, place)
        else:
            check_imports(block.text, place)


def check_printed(text, out, place):
    """The statements before a comment `# ≈ …` printed the numbers of the comment."""
    prints = [line for line in text.splitlines() if line.startswith("print(")]
    for statement, line in zip(prints, out.splitlines(), strict=False):
        _, about, comment = statement.partition("# ≈")
        said = numbers(comment)
        if about:
            assert numbers(line)[: len(said)] == pytest.approx(said, abs=0.15), place


def numbers(text):
    return [float(one) for one in re.findall(r"-?\d+\.?\d*", text.replace("−", "-"))]


def check_imports(text, place):
    """Every module that a text imports exists and has the names imported from it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{place}: {node.module} has no {alias.name}"


@pytest.mark.parametrize("page", PAGES)
def test_data_blocks_can_be_read(page):
    for block in blocks(page, "yaml"):
        assert yaml.safe_load(block.text)
    for block in blocks(page, "json"):
        assert json.loads(block.text.replace(", …", ""))


@pytest.mark.parametrize("arguments", RUNS)
def test_commands_of_runs_are_accepted(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py"])  # Hydra's own options read them again
    for choice, text in OWN.items():
        path = tmp_path / "mine" / "conf" / f"{choice}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    arguments = [one.replace("/home/me/project", str(tmp_path)) for one in arguments]
    try:
        command_line.check(command_line.named(arguments))
    except SystemExit as stop:
        assert stop.code == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [run for run in RUNS if "data=mixture" in run.values[0] and "-m" not in run.id]
)
def test_commands_run_dry(arguments, tmp_path, undrawn):
    assert start(tmp_path / "run", *arguments, "dry_run=true")["log_likelihood"]


@pytest.mark.parametrize("page", PAGES)
def test_settings_in_the_text_exist(page):
    """Words in code style such as `sde=ddpm loss=data` and `evaluate.shards`."""
    for code in INLINE.findall(prose(page)):
        words = code.split()
        if not all(re.fullmatch(r"[a-z_]+[\w./@]*=\S+", word) for word in words):
            setting = re.fullmatch(r"(data|evaluate|resume|sampler|task|train)\.[a-z_.]+", code)
            words = [f"{code}="] if setting else []
        for key, _, value in (word.partition("=") for word in words):
            group = choices.group_of(key)
            if group is not None and not re.search(r"[…(]", value):
                names = value.strip("[]").split(",")
                known = {*choices.groups()[group], *(own.rpartition("/")[2] for own in OWN)}
                assert set(names) <= known, f"{page}: {code}"
            elif group is None and key.partition(".")[0] in choices.groups():
                assert key in SETTINGS, f"{page}: {code}"


@pytest.mark.parametrize("group", ["sde", "data", "sampler", *GROUPS])
def test_the_readme_names_every_choice(group):
    text = (ROOT / "README.md").read_text()
    assert [one for one in choices.groups()[group] if f"`{one}`" not in text] == []


@pytest.mark.parametrize("command", OTHERS)
def test_other_commands_are_accepted(command, monkeypatch, capsys):
    """Targets exist in the Makefile, and the options of other programs in their parsers."""
    name, *words = command
    if name == "make":
        assert {word for word in words if "=" not in word} <= TARGETS
    elif words[:1] == ["-m"] and name == "python":
        accepted_by_module(words[1], words[2:], monkeypatch)
    elif name == "scoresde-convert" or words[:1] == ["experiments/convert.py"]:
        arguments = words[name == "python" :]
        for argument in arguments:  # `--to a|b` is replaced by each of them
            accepted(convert.main, [one.split("|")[0] for one in arguments], monkeypatch)
            assert "|" not in argument or set(argument.split("|")) <= set(convert.FORMATS)
    elif words[:1] == ["experiments/table.py"]:
        assert words[1:] and table.main(["--help"]) == 0
    elif name == "pip" and words[0] == "install":
        assert installable(words[1:])
    else:
        assert name in ("git", "cd", ".", "pre-commit") or words[:2] == ["-m", "venv"]


class Accepted(Exception):
    """A parser accepted its arguments."""


def accepted(program, arguments, monkeypatch):
    """Let a program read its arguments and then stop."""
    read = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        read(self, args, namespace)
        raise Accepted

    with monkeypatch.context() as patch, pytest.raises(Accepted):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        program(arguments)


def accepted_by_module(name, arguments, monkeypatch):
    """Run `python -m NAME` as far as its parser."""
    path = ROOT / Path(*name.split(".")).with_suffix(".py")
    assert path.is_file(), f"there is no {name}"
    if "ArgumentParser" in path.read_text():
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        accepted(lambda _: runpy.run_path(str(path), run_name="__main__"), arguments, monkeypatch)
    else:
        assert all((ROOT / argument).is_file() for argument in arguments)


def installable(words):
    """Whether the files of `pip install` exist, and whether its extras are those of the project."""
    words = [word for word in words if not word.startswith("-")]
    extras = set(PROJECT["project"]["optional-dependencies"])
    return all(
        (ROOT / word.partition("[")[0]).exists()
        and set(re.findall(r"\w+", word.partition("[")[2])) <= extras
        for word in words
    )


@pytest.mark.parametrize("page", PAGES)
def test_programs_in_the_text_exist(page):
    """Targets, modules and options within sentences exist, and so do the links between pages."""
    text = (ROOT / page).read_text()
    assert set(re.findall(r"`make ([a-z]+)", text)) <= TARGETS
    for module in re.findall(r"python\s+-m\s+((?:benchmarks|tests)\.\w+)", text):
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file(), module
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        place, _, anchor = link.partition("#")
        if not place.startswith("https:"):
            target = (ROOT / page).parent / place if place else ROOT / page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text()), link


def anchors(text):
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
