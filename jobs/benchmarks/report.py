"""A benchmark's result: a Markdown table to print, the same as JSON, and plots."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.benchmarks.machine import machine_line
from pipeline.errors import UsageError

if TYPE_CHECKING:
    import altair as alt

OUT = "out/bench"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: every row has as many cells as there are columns."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]

    def to_markdown(self) -> str:
        """GitHub's table, columns padded so that it reads well in a terminal too."""
        widths = [max(len(row[at]) for row in (self.columns, *self.rows)) for at in range(len(self.columns))]
        lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (self.columns, *self.rows)]
        lines.insert(1, ["-" * width for width in widths])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """name: of the files. machine: see `machine()`. values: all that was measured, for scripts."""

    name: str
    title: str
    machine: dict[str, Any]
    grids: tuple[Grid, ...]
    notes: tuple[str, ...] = ()
    values: dict[str, Any]

    def to_markdown(self) -> str:
        """Title, machine, tables, notes."""
        parts = [f"**{self.title}** · {machine_line(self.machine)}", *(grid.to_markdown() for grid in self.grids)]
        return "\n\n".join([*parts, "\n".join(f"- {note}" for note in self.notes)]).rstrip() + "\n"


def publish(report: Report, out: str, charts: "dict[str, alt.Chart | alt.LayerChart] | None" = None) -> None:
    """Print the Markdown; write NAME.md, NAME.json and the plots (NAME-<chart>.svg) into the folder `out`."""
    text = report.to_markdown()
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{report.name}.md").write_text(text, encoding="utf-8")
        values = {"machine": report.machine, **report.values}
        (folder / f"{report.name}.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        for name, chart in (charts or {}).items():
            chart.save(str(folder / f"{report.name}-{name}.svg"))
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error
    click.echo("\n" + text)
    click.echo(f"written: {folder}/{report.name}.md, .json" + "".join(f", {report.name}-{name}.svg" for name in charts or ()))


def need_altair() -> None:
    """Raise `UsageError` before minutes of measuring, where the plots could not be drawn."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise UsageError("the benchmarks draw with altair: pip install 'maskfleet[bench]'") from error
