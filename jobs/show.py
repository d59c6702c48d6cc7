"""Shows people a run: a live bar on a terminal, else one plain line every 30 s, and a table at the end."""

import logging
import os
import shlex
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

import click
from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipeline.driver.progress import Progress
from pipeline.errors import printable

PLAIN_EVERY_S = 30.0
_LIVE_PER_S = 4
_ECHO_COLUMNS = 4  # free columns after the last line, for the terminal's ^C: on the next line nothing would erase it
_HALF_DAY_S, _SIX_DAYS_S, _YEAR_S = 12 * 3600, 6 * 86400, 365 * 86400


class LogLines(logging.StreamHandler[TextIO]):
    """Writes log lines to the `sys.stderr` of the moment, so that they stand above the live bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.setStream(sys.stderr)
        super().emit(record)


def describe(progress: Progress) -> str:
    """One line: images, speed, parts, failures, remaining time."""
    if progress.labelling_since is None:
        return progress.phase
    text = f"{progress.phase}: {_images(progress)}, {_details(progress)}"
    left = _seconds_left(progress)
    return text if left is None else f"{text}, {duration(left)} left, {ends(left, datetime.now(UTC).astimezone())}"


def _images(progress: Progress) -> str:
    """How many images are done, and how many are expected."""
    expected, about = progress.expected_images, "about " if progress.planned_bytes else ""
    return f"{progress.done:,}" + (f" of {about}{expected:,}" if expected else "") + " images"


def _details(progress: Progress) -> str:
    parts, failures = progress.parts + progress.skipped_parts, progress.failures
    text = f"{progress.images_per_s:.1f} images/s, {_count(parts, 'part')}, {_count(failures, 'failure')}"
    by_error = Counter(dict(progress.errors)).most_common()  # a copy, as another thread counts meanwhile
    return text + (f" ({', '.join(f'{number:,} {error}' for error, number in by_error)})" if by_error else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def kept(progress: Progress) -> str:
    """How many images and parts are kept if the attempt ends now."""
    images, parts = _count(progress.done, "image"), _count(progress.parts + progress.skipped_parts, "part")
    return f"{images} in {parts} {'is' if progress.done == 1 else 'are'} kept"


def _seconds_left(progress: Progress) -> float | None:
    """Seconds until the end, as forecast at the last part; None if nobody can say."""
    if progress.seconds_remaining is None or progress.phase != "labelling":
        return None
    left = progress.seconds_remaining - (time.monotonic() - progress.last_part)
    return left if left > 0 else None


def duration(seconds: float) -> str:
    """A time in words, such as `42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ends(seconds: float, now: datetime) -> str:
    """Clock time of the end, such as `ends about 05:40`; with the day `Sun 05:40` after 12 hours, `6 Dec 05:40` after 6 days."""
    if seconds > _YEAR_S:
        return "ends in a year or later"
    then = now + timedelta(seconds=seconds)
    day = "" if seconds < _HALF_DAY_S else f"{then:%a} " if seconds < _SIX_DAYS_S else f"{then.day} {then:%b} "
    return f"ends about {day}{then:%H:%M}"


def moves(stream: TextIO) -> bool:
    """Is the stream a terminal on which lines can be drawn again? FORCE_COLOR does not make a file a terminal."""
    console = Console(file=stream)
    return stream.isatty() and console.is_terminal and not console.is_dumb_terminal


@contextmanager
def shown(progress: Progress, *, live: bool = True) -> Iterator[None]:
    """Show `progress` on stderr while the body runs. live: show a bar, if stderr is a terminal that can redraw lines."""
    if live and moves(sys.stderr):
        console, spinner = Console(file=_terminal()), Spinner("dots")
        with Live(
            get_renderable=lambda: _screen(progress, spinner, console.width - _ECHO_COLUMNS), console=console, transient=True,
            refresh_per_second=_LIVE_PER_S,
        ):  # fmt: skip
            yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_plain, args=(progress, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _terminal() -> TextIO:
    """A stream to the terminal. It also works while Ray starts, when output to the descriptor of stderr is held back.

    The stream stays open: loggers that are made while the bar is shown keep it as their stderr.
    """
    return open(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors)


def _plain(progress: Progress, stop: threading.Event) -> None:
    started = time.monotonic()
    while not stop.wait(PLAIN_EVERY_S):
        print(f"maskfleet: {duration(time.monotonic() - started)}: {describe(progress)}", file=sys.stderr, flush=True)


def _screen(progress: Progress, spinner: Spinner, width: int) -> RenderableType:
    """Two lines: a bar with images done and the time of the end; speed, parts and failures. Before the first part: the phase.

    width: of the last line, in columns.
    """
    line = Table.grid(padding=(0, 1))
    if progress.labelling_since is None:
        line.add_row(spinner, Text(progress.phase, no_wrap=True, overflow="ellipsis"))
        return Constrain(line, width)
    left, expected = _seconds_left(progress), progress.expected_images
    text = ("" if progress.phase == "labelling" else f"{progress.phase}: ") + _images(progress)
    text += "" if left is None else f", {ends(left, datetime.now(UTC).astimezone())}"
    line.expand = True
    line.add_column(width=1)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    line.add_row(spinner, ProgressBar(total=expected, completed=progress.done, pulse=expected is None), text)
    return Group(line, Constrain(Text(f"  {_details(progress)}", no_wrap=True, overflow="ellipsis"), width))


def print_outcome(run: dict[str, Any], classes: list[dict[str, Any]]) -> None:
    """Print the table at the end: counts, speed, classes found."""
    console = Console(width=None if sys.stdout.isatty() else 100, markup=False)
    counts, attempt = run["counts"], run["attempts"][-1]
    table = Table(show_header=False, box=None, padding=(0, 2))
    errors = ", ".join(f"{number:,} {name}" for name, number in run["errors"].items())
    table.add_row("images", f"{counts['images']:,}  ({counts['inferred']:,} labelled now, {counts['skipped']:,} there before)")
    table.add_row("failures", f"{counts['failures']:,}" + (f"  ({errors})" if errors else ""))
    table.add_row("images/s", f"{attempt['images_per_s']:.1f}" if counts["inferred"] else "-")
    found = [row for row in sorted(classes, key=lambda row: -row["pixels"]) if row["pixels"]]
    shares = ", ".join(f"{printable(row['name'])} {100 * row['fraction']:.1f} %" for row in found[:8])
    table.add_row("classes", f"{len(found)} found: {shares}" + (", …" if len(found) > 8 else "") if found else "none")
    table.add_row("state", run["state"])
    console.print(table)
    _print_whole("output", printable(run["output"]))


def _print_whole(label: str, text: str) -> None:
    """Print a row below the table whose text people copy: only the terminal may wrap it."""
    click.echo(f"  {label:<8}    {text}")


def _called(program: str) -> str:
    """The words before a job's name, as the shell finds them: click knows only the name of the program."""
    if program == "maskfleet " and shutil.which("maskfleet") != shutil.which(sys.argv[0]):
        return f"{shlex.quote(sys.argv[0])} "
    return program


def print_next(run: dict[str, Any], command_path: str) -> None:
    """Print the commands that come next. command_path: the command by which the shell called `segment`."""
    called, out = _called(command_path.removesuffix("segment")), shlex.quote(run["output"])
    if run["counts"]["masks"]:
        _print_whole("next", f"{called}look {out}")
    if run["state"] == "complete":
        _print_whole("next", f"{called}verify {out}")
