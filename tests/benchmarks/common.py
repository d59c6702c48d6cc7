"""Shared by all benchmarks: interleaved rounds, ratios with an interval, and the files of a result."""

import json
import os
import platform
import random
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import click

from jobs.bench import markdown_table
from pipeline.errors import UsageError
from pipeline.model.cpu import cpu_name, instruction_set

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
_RESAMPLES = 10_000
_SEED = 20

with_photos = click.option(
    "--photos", metavar="FOLDER", multiple=True, help="JPEGs to label; repeat it [default: the bundled photographs]."
)
with_short_side = click.option("--short-side", type=click.IntRange(16, 8192), default=520, show_default=True, help="Pixels.")
with_out = click.option("--out", metavar="FOLDER", default="out/bench", show_default=True, help="Where the result goes.")
with_rounds = click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Interleaved rounds.")


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the ratios of pairs, and the bootstrapped 95 % interval of that median."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:#.3g} ({self.low:#.3g}-{self.high:#.3g})"


def ratio(rounds: Sequence[Mapping[str, float]], name: str, base: str) -> Ratio:
    """The ratio `name` / `base`, with both figures of a pair from the same round."""
    found = [measured[name] / measured[base] for measured in rounds]
    draw = random.Random(_SEED)
    medians = sorted(median(draw.choices(found, k=len(found))) for _ in range(_RESAMPLES))
    return Ratio(median(found), medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)], len(found))


def interleaved(runs: Mapping[str, Callable[[], float]], rounds: int) -> Iterator[dict[str, float]]:
    """The figure of each run, round by round.

    Every second round takes the runs in reverse order, so that a machine that slows down favours no run.
    """
    names = list(runs)
    for number in range(rounds):
        measured = {name: runs[name]() for name in (names if number % 2 == 0 else names[::-1])}
        yield {name: measured[name] for name in names}


def spread(data: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, spread evenly over their order."""
    return list(data[:: max(1, len(data) // most)])[:most]


class Grid(NamedTuple):
    """A table: each row has as many cells as there are columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A result. values: all that was measured, for scripts. versions: more packages whose versions are noted."""

    name: str
    title: str
    grids: Sequence[Grid]
    notes: Sequence[str]
    values: dict[str, Any]
    versions: Sequence[str] = ()

    def to_markdown(self) -> str:
        """Title, machine, tables and notes as Markdown."""
        here = machine(self.versions)
        packages = ", ".join(f"{name} {number}" for name, number in here["versions"].items())
        where = f"{here['cpu']} ({here['instruction_set']}), {here['cores']} cores; Python {here['python']}, {packages}"
        tables = [markdown_table(*grid) for grid in self.grids]
        return "\n\n".join([f"**{self.title}** · {where}", *tables, "\n".join(f"- {note}" for note in self.notes)]) + "\n"


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """The machine and versions that a figure was measured on: ratios hold on other machines, times do not."""
    return {
        "cpu": cpu_name(), "instruction_set": instruction_set(), "cores": cores(), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ray", "openvino", "torch", "pillow", "pyarrow", *packages)},
    }  # fmt: skip


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def result_stem(name: str) -> str:
    """`<bench>_<cpu>_<date>_<commit>`. The commit ends with `-changed` if the checkout holds changes."""
    said = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    commit = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    cpu = re.sub(r"\(.*?\)|\bProcessor\b|\bCPU\b", " ", cpu_name()) + " " + instruction_set().partition("+")[0]
    slug = "-".join(re.findall("[a-z0-9]+", cpu.lower()))
    return f"{name}_{slug}_{datetime.now(UTC):%Y-%m-%d}_{commit or 'unknown'}{'-changed' if said else ''}"


def publish(report: Report, out: str) -> Path:
    """Print the Markdown; write Markdown, and values as JSON, into the folder `out` -> the path without a suffix."""
    text, stem = report.to_markdown(), Path(out) / result_stem(report.name)
    values = {"machine": machine(report.versions), **report.values}
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".md").write_text(text, encoding="utf-8")
        stem.with_suffix(".json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from error
    click.echo(f"\n{text}\nwritten: {stem}.md, .json")
    return stem
