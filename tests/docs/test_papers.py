"""docs/papers.md links existing objects to their files and has every paper that the code cites.

`python -m tests.docs.test_papers` rewrites names and links after files have moved.
"""

import functools
import importlib
import inspect
import pkgutil
import re

from tests.places import ROOT

PAGE = ROOT / "docs" / "papers.md"
NAME = re.compile(
    r"`((?:sde|samplers|models|training|evaluation|conditioning|data|interop)\.[\w.]+)`"
)
PACKAGES = (
    "sde",
    "samplers",
    "models",
    "training",
    "evaluation",
    "conditioning",
    "data",
    "interop",
)


def find(name):
    """The object of a name such as `sde.SDE.transition`, found by the longest module in it."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(["scoresde", *parts[:size]]))
            return functools.reduce(getattr, parts[size:], module)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise LookupError(f"docs/papers.md: there is no scoresde.{name}")


def moved(name):
    """The name of an object whose module has moved within its package."""
    package, last = name.partition(".")[0], name.rpartition(".")[2]
    whole = importlib.import_module(f"scoresde.{package}")
    for found in pkgutil.walk_packages(whole.__path__, f"scoresde.{package}."):
        module = importlib.import_module(found.name)
        if getattr(getattr(module, last, None), "__module__", None) == found.name:
            return f"{found.name.removeprefix('scoresde.')}.{last}"
    return name


def place(found):
    """The file that an object is defined in, from the folder of the page."""
    source = inspect.getsourcefile(inspect.unwrap(found))
    for package in PACKAGES:
        folder = importlib.import_module(f"scoresde.{package}").__path__[0]
        if source.startswith(f"{folder}/"):
            return f"../{package}{source.removeprefix(folder)}"
    raise LookupError(f"{source} is not of this tree")


def linked(text, follow=False):
    """The page with each name a link to its file, or to where it has moved."""

    def link(match):
        name = match[1]
        try:
            return f"[`{name}`]({place(find(name))})"
        except LookupError:
            if not follow:
                raise
        name = moved(name)
        return f"[`{name}`]({place(find(name))})"

    bare = re.sub(rf"\[({NAME.pattern})\]\([^)]*\)", r"\1", text)
    return "\n".join(
        NAME.sub(link, line) if line.startswith("|") else line for line in bare.split("\n")
    )


def cited(text):
    return set(re.findall(r"\b\d{4}\.\d{5}\b", text))


def test_every_name_is_in_the_file_it_links_to():
    text = PAGE.read_text()
    assert linked(text) == text, "after moving files run python -m tests.docs.test_papers"


def test_every_paper_the_code_cites_has_a_row():
    sources = [path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    in_code = set.union(*(cited(text) for text in sources))
    assert in_code - cited(PAGE.read_text()) == set()
    assert cited(PAGE.read_text()) - in_code == set()


def test_no_method_takes_more_than_three_files_to_read():
    section = PAGE.read_text().partition("## Where to start reading")[2].partition("##")[0]
    rows = [line for line in section.splitlines() if NAME.search(line)]
    assert len(rows) == 5
    assert all(1 <= len(NAME.findall(row)) <= 3 for row in rows)


if __name__ == "__main__":
    PAGE.write_text(linked(PAGE.read_text(), follow=True))
