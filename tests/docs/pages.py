"""The pages of the documentation, and the blocks of code in them."""

import re
from typing import NamedTuple

from tests.places import ROOT

PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))
]
LANGUAGES = ("python", "bash", "yaml", "json", "text")
DRY = re.compile(r"<!-- dry: (.+) -->")
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


class Block(NamedTuple):
    """A fenced block: its page and first line, its language, its text, and why it is not run."""

    page: str
    line: int
    language: str
    text: str
    dry: str | None


def blocks(page: str, *languages: str) -> list[Block]:
    """The blocks of a page in the given languages, or all of its blocks."""
    found: list[Block] = []
    fence, before, start, lines = "", "", 0, list[str]()
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if line.startswith("```") and not fence:
            fence, start, lines = line, number, []
        elif line == "```":
            dry = DRY.fullmatch(before)
            text = "\n".join(lines) + "\n"
            found.append(Block(page, start, fence[3:], text, dry and dry[1]))
            fence, before = "", ""
        elif fence:
            lines.append(line)
        elif line.strip():
            before = line.strip()
    assert not fence, f"{page}:{start}: the block does not end"
    return [block for block in found if not languages or block.language in languages]


def prose(page: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
