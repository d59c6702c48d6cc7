"""`scale`: how cost grows with the input: planning, another attempt, time per image, memory, and a second worker."""

import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import click

from jobs.bench import photographs, write_tars
from jobs.command import run_job
from tests.benchmarks import common
from tests.benchmarks.generated import many_parts, plan_shards
from tests.benchmarks.runs import DRIVER, Ran, run_segment, steady

WORKERS = 2
FACTORS = (1, 10, 10, 100)
IMAGES_PER_TAR = 50
PART_IMAGES = 25  # small parts, so that a run of a few seconds has a steady state
_KINDS = ("LIST", "LIST, parts", "GET, footers", "GET", "HEAD", "PUT", "DELETE")


@click.command()
@click.option("--shards", default=1_000_000, show_default=True, help="Shards of the generated listing; 0: leave it out.")
@click.option("--parts", default=1_000_000, show_default=True, help="Parts of a generated output; 0: leave it out.")
@click.option("--images", default=10_000, show_default=True, help="Images of the 100x run; 0: leave the runs out.")
@click.option("--pairs", default=5, show_default=True, help="Of one and two workers; 0: leave them out.")
@common.with_photos
@click.option("--short-side", default=128, show_default=True)
@common.with_out
def main(**options: Any) -> None:
    """Measure a million shards planned, a million parts there, 100 times the input, memory over time, one and two workers."""
    run_job(lambda: _scale(**options), goes_on=False)


def _scale(shards: int, parts: int, images: int, pairs: int, photos: Sequence[str], short_side: int, out: str) -> int:
    data = [encoded for _, encoded in photographs(photos)]
    grids, notes, values = list[common.Grid](), list[str](), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as folder:
        scratch = Path(folder)
        if shards:
            values["planned"] = planned = plan_shards(shards, scratch)
            grids.append(planned_grid(planned))
            notes.append(
                f"listed by real requests from a server that makes the pages up; {planned['plan_bytes']:,} bytes of plan files"
            )
        if parts:
            values["parts"] = there = many_parts(parts, scratch)
            grids.append(parts_grid(there))
            notes.append(
                "parts, their footers and shards are made up by a server on the same cores, which takes its part of the time"
            )
        if images:
            runs = [_run(scratch, data, images * factor // FACTORS[-1], short_side, WORKERS) for factor in FACTORS]
            values |= {"growth": [[run.images, run.seconds, steady_ms(run)] for run in runs], "memory": memory_of(runs[-1])}
            grids += [growth_grid(runs), memory_grid(runs[-1])]
            if (change := growth(runs)) is not None:
                notes.append(
                    f"steady cost of an image at 100x against 10x: {change:+.1%}; in all holds the start, which does not grow"
                )
        if images and pairs:
            values["pairs"] = rounds = one_and_two(scratch, data, images // 10, pairs, short_side)
            if rounds:
                grids.append(pairs_grid(rounds))
            told = "efficiency: steady images/s of two workers / twice those of one"
            notes.append(told if rounds else f"{images // 10} images are too few for a steady state of one and of two workers")
    title = f"scale: {WORKERS} workers, short side {short_side}"
    common.publish(common.Report(name="scale", title=title, grids=grids, notes=notes, values=values), out)
    return 0


def _run(scratch: Path, data: Sequence[bytes], images: int, short_side: int, workers: int) -> Ran:
    source, out = scratch / f"{images}", scratch / "out"
    if not source.exists():
        write_tars(source, data, images, IMAGES_PER_TAR)
    flags = [
        "--input", source, "--output", out, "--weights", "bundled", "--short-side", short_side, "--workers", workers,
        "--part-images", PART_IMAGES,
    ]  # fmt: skip
    try:
        run = run_segment(flags, memory=True)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    click.echo(f"{run.images:,} images, {workers} workers: {run.seconds:.1f} s", err=True)
    return run


def one_and_two(scratch: Path, data: Sequence[bytes], images: int, pairs: int, short_side: int) -> list[dict[str, float]]:
    """Steady images/s in pairs: twice those of one worker, and those of two; no pairs if a run was too short for that."""

    def rate(workers: int) -> float:
        window = steady(_run(scratch, data, images, short_side, workers).stamps, workers)
        return window.images_per_s * WORKERS / workers if window else 0.0

    found = list(common.interleaved({"one": partial(rate, 1), "two": partial(rate, WORKERS)}, pairs))
    return found if all(speed for each in found for speed in each.values()) else []


def planned_grid(planned: dict[str, Any]) -> common.Grid:
    """A table of listing and planning, and of the time from there to the first request for a shard."""
    rows = [
        [name, f"{planned[f'{key}_s']:.1f}", f"{planned[f'{key}_peak_mib']:.0f}",
         f"{1e6 * planned[f'{key}_s'] / planned['shards']:.1f}"]
        for name, key in (("listed and planned", "planned"), ("from there to the first dispatched shard", "dispatched"))
    ]  # fmt: skip
    return common.Grid((f"{planned['shards']:,} shards", "seconds", "driver, peak MiB of USS", "microseconds per shard"), rows)


def parts_grid(there: dict[str, Any]) -> common.Grid:
    """A table of each attempt: its process and its requests. Below the first attempt: how long two kinds of requests took."""
    first, again = there["first"], there["again"]
    rows = [[f"{there['new']:,} footers to read", *_driven(first)]]
    for name, kind in (("- from the first to the last page of parts", "LIST, parts"), ("- footers", "GET, footers")):
        rows.append([name, f"{first['busy_s'].get(kind, 0.0):.1f}", *[""] * (1 + len(_KINDS))])
    rows.append(["again, nothing new", *_driven(again)])
    title = f"{there['parts']:,} parts of {there['shards']:,} shards"
    return common.Grid((title, "seconds", "driver, peak MiB of USS", *_KINDS), rows)


def _driven(attempt: dict[str, Any]) -> list[str]:
    asked = [str(attempt["requests"].get(kind, 0)) for kind in _KINDS]
    return [f"{attempt['seconds']:.1f}", f"{attempt['peak_mib']:.0f}", *asked]


def steady_ms(run: Ran) -> float | None:
    """Milliseconds of one worker per image in the steady state; None without one."""
    window = steady(run.stamps, WORKERS)
    return window.wall_ms if window else None


def growth_grid(runs: Sequence[Ran]) -> common.Grid:
    """A table with one row per run."""
    rows = []
    for run in runs:
        ms, shards = steady_ms(run), -(-run.images // IMAGES_PER_TAR)
        in_all = f"{1000 * WORKERS * run.seconds / run.images:.1f}"
        rows.append([f"{run.images:,}", f"{shards:,}", f"{run.seconds:.1f}", in_all, "-" if ms is None else f"{ms:.2f}"])
    return common.Grid(("images", "shards", "seconds in all", "worker ms per image, in all", "in the steady state"), rows)


def growth(runs: Sequence[Ran]) -> float | None:
    """Steady cost per image at 100x / that at 10x (the mean of two runs), minus 1; None without steady states."""
    before, last = [ms for run in runs[1:3] if (ms := steady_ms(run)) is not None], steady_ms(runs[-1])
    return None if last is None or not before else last / mean(before) - 1


def memory_of(run: Ran) -> dict[str, list[tuple[float, float]]]:
    """(seconds since the start, MiB of USS) for the driver and for each worker; workers are numbered."""
    series: dict[str, list[tuple[float, float]]] = {}
    for moment, name, mib in run.watch.memory:
        series.setdefault(name, []).append((round(moment - run.began, 2), round(mib, 1)))
    labelled = [name for name in series if name != DRIVER and int(name) in run.stamps]
    return {DRIVER: series[DRIVER]} | {f"worker {number}": series[name] for number, name in enumerate(labelled, 1)}


def memory_grid(run: Ran) -> common.Grid:
    """A table of USS after a minute (or the nearest moment), at the last part, and at its peak."""
    rows = []
    for name, found in memory_of(run).items():
        minute, last = (min(found, key=lambda pair: abs(pair[0] - at))[1] for at in (60.0, run.last_part_s))
        rows.append([name, *(f"{mib:.0f}" for mib in (minute, last, max(mib for _, mib in found)))])
    return common.Grid((f"MiB of USS, {run.images:,} images", "after a minute", "at the last part", "peak"), rows)


def pairs_grid(rounds: Sequence[dict[str, float]]) -> common.Grid:
    """A table of one and two workers, and their efficiency."""
    efficiency = common.ratio(rounds, "two", "one")
    one, two = (median(found[name] for found in rounds) for name in ("one", "two"))
    row = [f"{one / WORKERS:.1f}", f"{two:.1f}", str(efficiency), str(efficiency.pairs)]
    return common.Grid(("images/s of one worker", "of two", "efficiency", "pairs"), [row])
