"""Imports go downward only, and nothing asks which process it was given."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "sde": set(),
    "data": set(),
    "models": {"sde"},
    "samplers": {"sde"},
    "training": {"sde"},
    "evaluation": {"sde"},
    "interop": {"models", "sde"},
    "experiments": {"sde", "data", "models", "samplers", "training", "evaluation", "interop"},
}
FILES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path):
    """Top-level names that a file imports absolutely."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_downward(path):
    package = path.relative_to(ROOT).parts[0]
    names = set(imported(path))
    ours = names & (set(ALLOWED) | {"interop", "conditioning", "conf", "tests"})
    assert ours <= ALLOWED[package] | {package}
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
def test_packages_are_typed(package):
    assert (ROOT / package / "py.typed").exists()
