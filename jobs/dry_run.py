"""`segment --dry-run`: what the run would take, as a table. Nothing is committed."""

import sys
from contextlib import nullcontext

from rich.console import Console
from rich.table import Table

from jobs.report import Report
from jobs.show import duration, moves
from pipeline.config import SegmentConfig
from pipeline.errors import printable
from pipeline.forecast.forecast import Forecast, forecast
from pipeline.stopped import stop_on_signals

_SHOWN_CLASSES = 8


def dry_run(config: SegmentConfig, report: Report, *, debug: bool) -> int:
    """Forecast, print, report. debug: also print milliseconds per image by stage. Returns exit code 0."""
    stop_on_signals()
    doing = "listing, counting, labelling 64 images, rehearsing"
    with Console(stderr=True).status(doing) if moves(sys.stderr) else nullcontext():
        found = forecast(config)
    console = Console(width=None if sys.stdout.isatty() else 100, markup=False)
    console.print(_table(found, stages=debug))
    for note in found.notes:
        console.print(f"  note: {note}", style="dim", highlight=False)
    report.values = {**found.to_dict(), "output": config.output}
    return 0


def _table(found: Forecast, *, stages: bool) -> Table:
    about = "" if found.exact else "about "
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("shards", f"{found.tars:,} tars, {found.parquet_files:,} Parquet files; {found.single_images:,} single images")
    table.add_row("images", f"{about}{found.images:,} to label  ({found.skipped:,} committed before)")
    table.add_row("to read", size(found.bytes))
    table.add_row("parts", f"{about}{found.parts:,}")
    shares = ", ".join(f"{number} {name}" for name, number in found.errors.items())
    percent = f"{100 * found.failures / found.labelled:.1f} %" if found.labelled else "-"
    table.add_row(
        "failures", f"{found.failures} of {found.labelled} sampled images, {percent}" + (f"  ({shares})" if shares else "")
    )
    names = ", ".join(f"{printable(row['name'])} {100 * row['fraction']:.1f} %" for row in found.classes[:_SHOWN_CLASSES])
    more = ", …" if len(found.classes) > _SHOWN_CLASSES else ""
    table.add_row("classes", f"{len(found.classes)} in the sample: {names}{more}" if found.classes else "none")
    speed = f"{found.images_per_s:.1f} with {found.workers} workers, {found.images_per_s_a_core:.1f} a core"
    table.add_row("images/s", speed if found.labelled else "-")
    if stages:
        table.add_row("ms per image", ", ".join(f"{stage} {spent:.1f}" for stage, spent in found.milliseconds.items()))
    table.add_row("expected time", f"about {duration(found.seconds)}")
    table.add_row("output size", f"about {size(found.output_bytes)}")
    requests = found.requests
    table.add_row("requests", f"about {requests.get:,} GET, {requests.put:,} PUT, {requests.list:,} LIST")
    hours = f"{found.core_hours:,.2f} core hours"
    table.add_row(
        "price",
        f"about {found.usd:,.{2 if found.usd >= 1 else 4}f} USD  ({hours})"
        if found.usd is not None
        else f"{hours}; see --usd-per-core-hour",
    )
    table.add_row("state", "nothing was committed")
    return table


def size(count: float) -> str:
    """Bytes in words, such as `512 bytes`, `3.4 MB`, `1.2 TB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
