"""What others rely on stays as it is written down in `interface.txt`, or changes there, in a diff that everybody sees."""

from pathlib import Path

from tests.support.interface import describe_interface

WRITTEN = Path(__file__).with_name("interface.txt")


def test_interface_is_the_one_that_is_written_down() -> None:
    """If not: CONTRIBUTING.md says what may change in which version; `python -m tests.support.interface` prints the new text."""
    assert describe_interface() == WRITTEN.read_text(encoding="utf-8")


def test_no_section_is_empty() -> None:
    sections = describe_interface().split("\n\n")
    assert len(sections) == 6
    assert all(len(section.splitlines()) > 10 for section in sections)
