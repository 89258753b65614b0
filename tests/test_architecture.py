"""Imports go downward only, and no code asks which process it was given."""

import ast
import re
import tomllib

import pytest

from tests.places import ROOT

ALLOWED = {
    "sde": set(),
    "data": set(),
    "models": {"sde"},
    "samplers": {"sde"},
    "training": {"sde"},
    "evaluation": {"sde"},
    "conditioning": {"samplers", "sde"},
    "interop": {"models", "sde"},
    "experiments": {
        "sde",
        "data",
        "models",
        "samplers",
        "training",
        "evaluation",
        "conditioning",
        "interop",
    },
}
FILES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path):
    """The absolute imports of a file: packages of others, and ours as `scoresde.sde`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            whole = node.module == "scoresde"  # from scoresde import sde
            names = [f"scoresde.{alias.name}" for alias in node.names] if whole else [node.module]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield ".".join(parts[:2] if parts[0] == "scoresde" else parts[:1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path):
    package = path.relative_to(ROOT).parts[0]
    names = set(imported(path))
    ours = {name.partition(".")[2] for name in names if name.startswith("scoresde")}
    own = {package} if "__main__" in path.read_text() else set()  # scripts have no relative imports
    assert ours <= ALLOWED[package] | own
    assert not names & (set(ALLOWED) | {"conf", "tests"})  # no other name
    if package != "experiments":
        assert not names & {"hydra", "omegaconf"}
    if path.name != "loggers.py":
        assert "wandb" not in names
    assert "torchvision" not in names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_asks_which_process_it_was_given(path):
    text = path.read_text()
    assert not re.search(r"isinstance\([^)]*\b(sde|SDE|VP|VE|SubVP|Discretized)\b", text)
    assert "None, None, None]" not in text and ".view(-1, 1, 1, 1)" not in text


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_are_typed_and_installed(package):
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for path in (ROOT / package).rglob("__init__.py"):
        folder = path.parent.relative_to(ROOT)
        assert (ROOT / folder / "py.typed").exists()
        assert ".".join(["scoresde", *folder.parts]) in installed["packages"]
