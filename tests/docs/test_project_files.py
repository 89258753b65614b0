"""The files next to the code: the citation, the changelog, and the hooks before a commit."""

import re
import shlex

import yaml

from benchmarks import report
from scoresde import __version__
from tests.docs.pages import blocks
from tests.docs.test_papers import cited
from tests.places import ROOT


def test_the_citation_is_valid():
    """It has the keys that the Citation File Format 1.2.0 requires and no forbidden ones."""
    text = (ROOT / "CITATION.cff").read_text()
    citation = yaml.safe_load(text)
    assert set(citation) == {
        *("cff-version", "message", "type", "title", "authors", "version", "license"),
        *("keywords", "references"),
    }
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == __version__ and citation["license"] == "Apache-2.0"
    assert all(author.keys() == {"name"} for author in citation["authors"])
    for reference in citation["references"]:
        assert reference.keys() == {"type", "title", "authors", "year", "identifiers", "url"}
        assert reference["type"] == "article" and isinstance(reference["year"], int)
        assert reference["authors"], reference["title"]
        for author in reference["authors"]:
            assert author.keys() == {"family-names", "given-names"}
            assert all(isinstance(name, str) and name for name in author.values())
        (identifier,) = reference["identifiers"]
        number = identifier["value"].removeprefix("arXiv:")
        assert identifier["type"] == "other" and re.fullmatch(r"\d{4}\.\d{5}", number)
        assert reference["url"] == f"https://arxiv.org/abs/{number}"
    assert cited(text) <= cited((ROOT / "docs" / "papers.md").read_text())


def test_the_changelog_has_the_version():
    """It has Keep a Changelog's headings: Unreleased, then dated versions, the newest first."""
    text = (ROOT / "CHANGELOG.md").read_text()
    first, *versions = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    named = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d{2}-\d{2}", one) for one in versions]
    numbers = [tuple(map(int, one.groups())) for one in named]
    assert numbers == sorted(numbers, reverse=True)
    assert ".".join(map(str, numbers[0])) == __version__


def test_hooks_are_the_checks_of_make_lint():
    """Each hook runs a tool of .venv, as `make lint` does, and pre-commit downloads nothing."""
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    checks = set()
    for hook in local["hooks"]:
        assert {"id", "name", "entry", "language"} <= set(hook) and hook["language"] == "system"
        program, *words = shlex.split(hook["entry"], comments=True)
        assert program.startswith(".venv/bin/")
        checks.add(" ".join([program.removeprefix(".venv/bin/"), *words[:1]]))
    assert checks == {
        " ".join(line.removeprefix("\t$(BIN)/").replace(" --check", "").split()[:2])
        for line in recipe[1].splitlines()
        if "$(BIN)" in line
    }


def test_the_page_of_solvers_is_the_one_that_its_benchmark_writes():
    """The text of the page is compared; its rows and figures take minutes to measure."""
    page = (ROOT / "docs" / "solvers.md").read_text()
    measured = page.partition(report._MARKS[0])[2].partition(report._MARKS[1])[0]
    pieces = re.split(r"\{[^}]*\}", report._HEAD)
    head = re.match(".+?".join(map(re.escape, pieces)), measured, re.DOTALL)
    assert head
    rows = measured[head.end() :].splitlines()
    assert rows and all(row.startswith("| ") and row.count("|") == 6 for row in rows)


def test_the_readme_lists_every_folder():
    (listing,) = blocks("README.md", "text")
    ignored = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    folders = {
        one for one in folders - ignored if not one.startswith(".") and "egg-info" not in one
    }
    assert set(re.findall(r"^(\w+)/", listing.text, re.MULTILINE)) == folders
