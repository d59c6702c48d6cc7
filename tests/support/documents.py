"""The documents of this checkout, and their prose, shell and Python."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Final

from tests.conftest import ROOT

FENCE = re.compile(r"^[ \t]*```(\w*)\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`(\s+at\s+commit)?")
_FOLDERS = (".assets", ".ci", "infra", "jobs", "pipeline", "tests")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def git(*arguments: str, given: str = "") -> str | None:
    """The output of git in this checkout; None if there is no git, or this is no checkout."""
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, input=given, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _files() -> list[str]:
    """Tracked files and files that git does not ignore; without git all files in folders of the project."""
    listed = git("ls-files", "--cached", "--others", "--exclude-standard")
    if listed is not None:
        return [name for name in listed.splitlines() if (ROOT / name).exists()]
    found = [*ROOT.glob("*"), *(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*"))]
    return [str(path.relative_to(ROOT)) for path in found if path.is_file()]


FILES: Final = _files()
DOCUMENTS: Final = [name for name in FILES if name.endswith(".md")]
# These describe the day of a version or of a measurement: their links are followed, their commands are not run.
RECORDS: Final = ("CHANGELOG.md", "tests/benchmarks/results/")
LIVING: Final = [name for name in DOCUMENTS if not name.startswith(RECORDS)]


@cache
def text_of(name: str) -> str:
    """The text of a file of this checkout."""
    return (ROOT / name).read_text()


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return FENCE.sub("", text)


def spans(text: str) -> Iterator[str]:
    """The code within sentences, each on one line, without commands of older commits (`… at commit`)."""
    return (" ".join(code.split()) for code, at_commit in SPAN.findall(prose(text)) if not at_commit)


def blocks(text: str, *languages: str) -> Iterator[str]:
    """The blocks of code in these languages."""
    return (block for language, block in FENCE.findall(text) if language in languages)


def anchors(text: str) -> set[str]:
    """The anchors of the headings in a document, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = next(n for n in range(len(found) + 1) if (f"{anchor}-{n}" if n else anchor) not in found)
        found.add(f"{anchor}-{number}" if number else anchor)
    return found


def tables(text: str, heading: str) -> list[list[list[str]]]:
    """The tables of a section, as rows of cells; the row of headings is left out."""
    _, section = re.split(rf"^#+ {re.escape(heading)}\n", text, maxsplit=1, flags=re.MULTILINE)
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"(?:^\|.*\|\n)+", section, re.MULTILINE)
    return [[[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]] for table in found]
