"""The tables of flags in `jobs/README.md`, made from the commands themselves: `python -m tests.support.flags_document`."""

import re
from collections.abc import Iterator
from typing import Final

import click

from jobs.__main__ import main as maskfleet
from pipeline.config import Group, SegmentConfig, groups_of
from tests.conftest import ROOT

DOCUMENT: Final = ROOT / "jobs" / "README.md"
BEGIN: Final = "<!-- flags: written by `python -m tests.support.flags_document`, not by hand -->"
END: Final = "<!-- end of flags -->"
CONFIGS: Final[dict[tuple[str, ...], type[Group]]] = {("segment",): SegmentConfig}  # the commands whose flags have groups
_DEFAULT = re.compile(r"\s*\[default: ([^\];]+)[^\]]*\]\.?")
_RANGE = re.compile(r"\s*\[[\d.<=]*x[\d.<>=]+\]")  # click adds ranges; a wrong value gives an error line anyway
_REQUIRED = " [required]"


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group, with the words of its name."""
    if not isinstance(group, click.Group):
        yield path, group
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command, (*path, name))


def flags_document() -> str:
    """The section between the markers: per command its flags, those of `segment` in groups."""
    lines: list[str] = []
    for path, command in commands(maskfleet):
        lines += [f"### {' '.join(path)}", *_tables(command, CONFIGS.get(path))]
    return "\n".join(lines) + "\n"


def _tables(command: click.Command, config: type[Group] | None) -> Iterator[str]:
    options = {str(option.name): option for option in command.params if isinstance(option, click.Option)}
    groups = {} if config is None else {title: list(fields) for title, fields in groups_of(config).items()}
    rest = set(options).difference(*groups.values())
    groups["Other" if groups else "Flag"] = [name for name in options if name in rest]
    for title, names in groups.items():
        yield f"| {title} | default | what it does |\n|---|---|---|"
        yield from (_row(options[name], click.Context(command)) for name in names)
        yield ""


def _row(option: click.Option, context: click.Context) -> str:
    flag, text = option.get_help_record(context) or ("", "")
    default = "required" if _REQUIRED in text else ""
    text = text.replace(_REQUIRED, "")
    if found := _DEFAULT.search(text):
        default = found[1]
    text = _RANGE.sub("", _DEFAULT.sub("", text)).strip()
    text += "." if text and not text.endswith(".") else ""
    if isinstance(option.type, click.Choice) and not all(choice in text for choice in option.type.choices):
        flag = f"{option.opts[0]} NAME"
        text += f" One of {', '.join(option.type.choices)}."
    return f"| `{_cell(flag)}` | {_cell(default)} | {_cell(text)} |"


def _cell(text: str) -> str:
    """The text on one line, escaped for a table cell."""
    return re.sub(r"\s+", " ", text).strip().replace("|", r"\|").replace("<", r"\<")


def with_flags(document: str) -> str:
    """The document with the flags of today's commands between the markers. Raises `ValueError` without markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no markers for flags in {DOCUMENT.name}")
    return f"{before}{BEGIN}\n{flags_document()}{END}{after}"


@click.command()
def main() -> None:
    """Write the tables of flags in jobs/README.md anew."""
    DOCUMENT.write_text(with_flags(DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
