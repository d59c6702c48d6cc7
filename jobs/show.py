"""Progress for people: a live bar on a terminal, one plain line every 30 s elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from pipeline.driver.progress import Progress

PLAIN_EVERY_S = 30.0
_BAR_EVERY_S = 0.5


def describe(progress: Progress) -> str:
    """One line: images, speed, failures, time left."""
    if progress.labelling_since is None:
        return progress.phase
    expected = progress.expected_images
    text = f"{progress.phase}: {progress.done:,}" + (f" of about {expected:,}" if expected else "") + " images"
    text += f", {progress.images_per_s:.1f} images/s, {progress.failures} failures"
    if progress.seconds_remaining is not None and progress.phase == "labelling":
        text += f", {duration(progress.seconds_remaining)} left"
    return text


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Show `progress` on stderr while the body runs."""
    console = Console(stderr=True)
    stop = threading.Event()
    target = _live if console.is_terminal else _plain
    thread = threading.Thread(target=target, args=(progress, console, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _plain(progress: Progress, _console: Console, stop: threading.Event) -> None:
    started = time.monotonic()
    while not stop.wait(PLAIN_EVERY_S):
        print(f"maskfleet: {duration(time.monotonic() - started)}: {describe(progress)}", file=sys.stderr, flush=True)


def _live(progress: Progress, console: Console, stop: threading.Event) -> None:
    columns = (SpinnerColumn(), BarColumn(bar_width=12), TextColumn("{task.description}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        while not stop.wait(_BAR_EVERY_S):
            bar.update(task, description=describe(progress), completed=progress.done, total=progress.expected_images)


def print_outcome(run: dict[str, Any], classes: list[dict[str, Any]]) -> None:
    """The table at the end: counts, speed, classes found."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    counts, attempt = run["counts"], run["attempts"][-1]
    table = Table(show_header=False, box=None, padding=(0, 2))
    errors = ", ".join(f"{number} {name}" for name, number in run["errors"].items())
    table.add_row("images", f"{counts['images']:,}  ({counts['inferred']:,} labelled now, {counts['skipped']:,} there before)")
    table.add_row("failures", f"{counts['failures']:,}" + (f"  ({errors})" if errors else ""))
    table.add_row("images/s", f"{attempt['images_per_s']:.1f}" if counts["inferred"] else "-")
    found = [row for row in sorted(classes, key=lambda row: -row["pixels"]) if row["pixels"]]
    shares = ", ".join(f"{row['name']} {100 * row['fraction']:.1f} %" for row in found[:8])
    table.add_row("classes", f"{len(found)} found: {shares}" + (", …" if len(found) > 8 else "") if found else "none")
    table.add_row("state", run["state"])
    table.add_row("output", run["output"])
    console.print(table)
