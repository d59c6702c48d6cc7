"""`bench scale`: a million shards planned, a million parts there, an image as the input grows, memory over time, two workers."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from jobs.benchmarks.machine import machine
from jobs.benchmarks.many_parts import many_parts
from jobs.benchmarks.million import million
from jobs.benchmarks.pairs import Ratio, interleaved, ratio
from jobs.benchmarks.photographs import photographs, write_tars
from jobs.benchmarks.report import OUT, Grid, Report, need_altair, publish
from jobs.benchmarks.watched_run import DRIVER, Watched, watched_run
from jobs.command import run_job
from pipeline.errors import UsageError

if TYPE_CHECKING:
    import altair as alt

PLANNED_S, PLANNED_MIB = 60.0, 1e9 / (1 << 20)
RERUN_S, RERUN_MIB = 60.0, 1024.0
GROWTH_GOAL = 0.05
WORKERS = 2
FACTORS = (1, 10, 100)
IMAGES_A_TAR = 50
PART_IMAGES = 25  # short parts, so that a run of seconds has a steady state
_MEMORY_EVERY_S = 2.0


@click.command()
@click.option("--shards", default=1_000_000, show_default=True, help="Shards of the generated listing; 0: leave it out.")
@click.option("--parts", default=1_000_000, show_default=True, help="Parts of a generated output; 0: leave it out.")
@click.option("--only-parts", is_flag=True, help="Measure the output of many parts alone, and write no other table.")
@click.option("--images", default=10_000, show_default=True, help="Images of the 100x run.")
@click.option("--pairs", default=5, show_default=True, help="Of one and two workers; 0: leave them out.")
@click.option("--short-side", default=128, show_default=True)
@click.option("--photos", metavar="FOLDER", multiple=True, help="JPEGs to repeat [default: the bundled photographs].")
@click.option("--out", default=OUT, show_default=True, metavar="FOLDER")
def main(
    shards: int, parts: int, only_parts: bool, images: int, pairs: int, short_side: int, photos: tuple[str, ...], out: str
) -> None:
    """Measure what a larger input costs: to plan, to come back to, an image, in memory, and on two workers."""
    os.environ["RAY_ADDRESS"] = "local"  # the processes that are watched are this machine's
    if only_parts:
        run_job(lambda: _only_parts(parts, out))
    run_job(lambda: _scale(shards, parts, images, pairs, short_side, photos, out))


def _only_parts(parts: int, out: str) -> int:
    here = machine()
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as folder:
        there = many_parts(parts, Path(folder))
    grids, notes = (_parts_grid(there),), (_parts_note(there),)
    publish(Report(name="scale-parts", title="scale: an output of many parts", machine=here, grids=grids, notes=notes,
                   values={"parts": there}), out)  # fmt: skip
    return 0


def _scale(shards: int, parts: int, images: int, pairs: int, short_side: int, photos: tuple[str, ...], out: str) -> int:
    need_altair()
    data, here = photographs(photos), machine()
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as folder:
        scratch = Path(folder)
        planned = million(shards, scratch) if shards else None
        there = many_parts(parts, scratch) if parts else None
        runs = _grow(scratch, data, images, short_side)
        rounds = _one_and_two(scratch, data, images // 10, pairs, short_side)
    publish(_report(planned, there, runs, rounds, here, short_side), out, {"memory": _memory_chart(runs[-1])})
    return 0


def _flags(short_side: int, workers: int) -> list[str]:
    return [
        "--weights", "bundled", "--short-side", str(short_side), "--workers", str(workers), "--part-images", str(PART_IMAGES),
    ]  # fmt: skip


def _grow(scratch: Path, data: Sequence[bytes], images: int, short_side: int) -> list[Watched]:
    """Runs of 1x, 10x, 10x again and 100x; the last is watched."""
    found = []
    for factor in (*FACTORS[:2], *FACTORS[1:]):
        found.append(
            _run(scratch, data, max(1, images * factor // FACTORS[-1]), short_side, WORKERS, watch=factor == FACTORS[-1])
        )
        click.echo(f"{factor}x: {found[-1].images:,} images in {found[-1].seconds:.1f} s", err=True)
    return found


def _run(scratch: Path, data: Sequence[bytes], images: int, short_side: int, workers: int, *, watch: bool = False) -> Watched:
    source, out = scratch / f"{images}", scratch / "out"
    if not source.exists():
        write_tars(source, data, images, images_a_tar=IMAGES_A_TAR)
    try:
        return watched_run(source, out, _flags(short_side, workers), every_s=_MEMORY_EVERY_S if watch else None)
    finally:
        shutil.rmtree(out, ignore_errors=True)
        out.with_suffix(".trace").unlink(missing_ok=True)


def _one_and_two(scratch: Path, data: Sequence[bytes], images: int, pairs: int, short_side: int) -> list[dict[str, float]]:
    """Steady images/s of one worker, counted twice, and of two; and how long the second of two worked alone."""
    tails: list[float] = []

    def rate(workers: int) -> float:
        run = _run(scratch, data, images, short_side, workers)
        if run.steady is None:
            raise UsageError(f"--images: {images} are too few for a steady state of {workers} workers")
        if workers == WORKERS:
            tails.append(run.tail_s)
        return run.steady.images_per_s * WORKERS / workers

    rounds: list[dict[str, float]] = []
    for found in interleaved({"one twice": partial(rate, 1), "two": partial(rate, WORKERS)}, pairs):
        rounds.append({**found, "tail_s": tails[-1]})
        told = f"two workers {found['two']:.1f} images/s, one {found['one twice'] / WORKERS:.1f}, tail {tails[-1]:.1f} s"
        click.echo(f"pair {len(rounds)} of {pairs}: {told}", err=True)
    return rounds


def _report(
    planned: dict[str, Any] | None,
    there: dict[str, Any] | None,
    runs: list[Watched],
    rounds: list[dict[str, float]],
    here: dict[str, Any],
    short_side: int,
) -> Report:
    efficiency = ratio(rounds, "two", "one twice") if rounds else None
    grids = [*([_planned_grid(planned)] if planned else []), *([_parts_grid(there)] if there else [])]
    grids += [_growth_grid(runs), _memory_grid(runs[-1])]
    notes = [*([_planned_note(planned)] if planned else []), *([_parts_note(there)] if there else []), _growth_note(runs)]
    if efficiency is not None:
        grids.append(_pairs_grid(rounds, efficiency))
        notes.append("efficiency: steady images/s of two workers / twice those of one; tail: the last worker alone")
    values = {
        "planned": planned, "parts": there, "short_side": short_side,
        "growth": [
            {"images": run.images, "seconds": run.seconds, "steady_ms": _steady_ms(run), "in_all_ms": _in_all_ms(run)}
            for run in runs
        ],
        "memory": runs[-1].memory, "pairs": rounds,
        "efficiency": None if efficiency is None else [efficiency.median, efficiency.low, efficiency.high],
    }  # fmt: skip
    title = f"scale: {WORKERS} workers, short side {short_side}"
    return Report(name="scale", title=title, machine=here, grids=tuple(grids), notes=tuple(notes), values=values)


def _planned_grid(planned: dict[str, Any]) -> Grid:
    stages = (("listing", "listing_s", None), ("planning", "planning_s", None), ("planned", "planned_s", "planned_peak_mib"),
              ("to the first dispatched shard", "dispatched_s", "dispatched_peak_mib"))  # fmt: skip
    rows = [
        [
            name, f"{planned[seconds]:.1f}", f"{planned[peak]:.0f}" if peak else "",
            f"{1e6 * planned[seconds] / planned['shards']:.1f}",
        ]
        for name, seconds, peak in stages
    ]  # fmt: skip
    return Grid((f"{planned['shards']:,} shards", "seconds", "driver, peak MiB of USS", "microseconds a shard"), rows)


def _planned_note(planned: dict[str, Any]) -> str:
    met = planned["planned_s"] < PLANNED_S and planned["dispatched_peak_mib"] < PLANNED_MIB
    size = f"{planned['plan_bytes'] / 1e6:.1f} MB of plan files"
    goal = (
        f"planned in under {PLANNED_S:.0f} s and 1 GB: {'yes' if met else 'no'}" if planned["shards"] >= 1_000_000 else "no goal"
    )
    return f"listed by real requests from a server that makes the pages up; {size}; {goal}"


_KINDS = ("LIST", "GET, footers", "GET", "HEAD", "PUT", "DELETE")


def _parts_grid(there: dict[str, Any]) -> Grid:
    """Of each attempt: the process, and what it was asked; below the first, what of it took how long."""
    first, again = there["first"], there["again"]
    stages = first["stages"]
    begun = sum(seconds for phase, seconds in stages.items() if phase not in ("looking at what is there", "summing up"))
    rows = [
        [f"{there['new']:,} footers to read", *_driven(first)],
        ["- start, listing and planning", f"{begun:.1f}", *[""] * (1 + len(_KINDS))],
        ["- parts listed, checkpoint read", f"{stages.get('looking at what is there', 0.0):.1f}", *[""] * (1 + len(_KINDS))],
        ["- footers, sums, checkpoint, listed again", f"{stages.get('summing up', 0.0):.1f}", *[""] * (1 + len(_KINDS))],
        ["again, nothing new", *_driven(again)],
    ]
    title = f"{there['parts']:,} parts of {there['shards']:,} shards"
    return Grid((title, "seconds", "driver, peak MiB of USS", *_KINDS), rows)


def _driven(driven: dict[str, Any]) -> list[str]:
    asked = [str(driven["requests"].get(kind, 0)) for kind in _KINDS]
    return [f"{driven['seconds']:.1f}", f"{driven['peak_mib']:.0f}", *asked]


def _parts_note(there: dict[str, Any]) -> str:
    again, peak = there["again"], max(there[name]["peak_mib"] for name in ("first", "again"))
    met = again["seconds"] < RERUN_S and peak < RERUN_MIB
    goal = f"run again in under {RERUN_S:.0f} s, both in under 1 GiB: {'yes' if met else 'no'}"
    goal = goal if there["parts"] >= 1_000_000 else "no goal"
    return f"parts, their footers and shards are made up by a server on the same cores, which takes its part of the time; {goal}"


def _steady_ms(run: Watched) -> float | None:
    """Of one worker, an image, while all were at work."""
    return None if run.steady is None else run.steady.wall_ms


def _in_all_ms(run: Watched) -> float:
    return 1000 * WORKERS * run.seconds / run.images


def _growth_grid(runs: list[Watched]) -> Grid:
    rows = [
        [
            f"{run.images:,}", f"{-(-run.images // IMAGES_A_TAR):,}", f"{run.seconds:.1f}", f"{_in_all_ms(run):.1f}",
            "-" if (ms := _steady_ms(run)) is None else f"{ms:.2f}",
        ]
        for run in runs
    ]  # fmt: skip
    return Grid(("images", "shards", "seconds in all", "worker ms an image, in all", "at steady state"), rows)


def growth(runs: list[Watched]) -> float | None:
    """Steady cost of an image at 100x / at 10x (the mean of its two runs), less 1."""
    before, last = [_steady_ms(run) for run in runs[1:3]], _steady_ms(runs[-1])
    known = [ms for ms in before if ms is not None]
    return None if last is None or not known else last / (sum(known) / len(known)) - 1


def _growth_note(runs: list[Watched]) -> str:
    change = growth(runs)
    if change is None:
        return "the runs were too short for a steady state"
    met = f"at most {GROWTH_GOAL:.0%} more: {'yes' if change <= GROWTH_GOAL else 'no'}"
    return f"steady cost of an image at 100x against 10x: {change:+.1%} ({met}); in all holds the start, which does not grow"


def _memory_grid(run: Watched) -> Grid:
    """USS after a minute (or as near as the run comes), at the last part, and the most."""
    rows = []
    for name in dict.fromkeys(name for _, name, _ in run.memory):
        series = [(moment, mib) for moment, who, mib in run.memory if who == name]
        minute, last = (min(series, key=lambda pair: abs(pair[0] - at)) for at in (60.0, run.last_part_s))
        rows.append([name, *(f"{mib:.0f}" for mib in (minute[1], last[1], max(mib for _, mib in series)))])
    return Grid((f"MiB of USS, {run.images:,} images", "after a minute", "at the last part", "peak"), rows)


def _pairs_grid(rounds: list[dict[str, float]], efficiency: Ratio) -> Grid:
    one, two, tail = (median(found[name] for found in rounds) for name in ("one twice", "two", "tail_s"))
    row = [f"{one / WORKERS:.1f}", f"{two:.1f}", str(efficiency), str(efficiency.pairs), f"{tail:.1f}"]
    return Grid(("images/s of one worker", "of two", "efficiency", "pairs", "tail, s"), [row])


def _memory_chart(run: Watched) -> "alt.Chart":
    import altair as alt

    values = [{"seconds": moment, "process": name, "MiB": mib} for moment, name, mib in run.memory]
    names = sorted({name for _, name, _ in run.memory}, key=lambda name: (name != DRIVER, name))
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values), title=f"Memory of each process (USS), {run.images:,} images")
        .mark_line()
        .encode(
            x=alt.X("seconds:Q", title="seconds since the start"),
            y=alt.Y("MiB:Q", title="MiB", scale=alt.Scale(zero=True)),
            color=alt.Color("process:N", sort=names, title=None),
        )
        .properties(width=720, height=320)
    )
    return chart


if __name__ == "__main__":
    main()
