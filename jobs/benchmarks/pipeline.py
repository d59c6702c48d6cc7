"""`bench pipeline`: the whole job against the bare loop, and the bare loop against that of the field notes.

All label the same tars, in one process a core with one thread that reads ahead; rates are those of the steady state
(`jobs.benchmarks.steady`), rounds are interleaved, masks are compared before a rate is counted.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import click

from jobs.benchmarks.contenders import PARTS_A_TAR, Expected, Measured, Task, check_labels, measure_job, measure_loop
from jobs.benchmarks.machine import machine
from jobs.benchmarks.pairs import Ratio, interleaved, ratio
from jobs.benchmarks.photographs import photographs, spread, write_tars
from jobs.benchmarks.places import Place, local_place, s3_place
from jobs.benchmarks.report import OUT, Grid, Report, need_altair, publish
from jobs.benchmarks.stages import Milliseconds, breakdown, core_ms, mean_of, processes, processes_grid, stages_chart, stages_grid
from jobs.command import run_job
from pipeline.config import Precision
from pipeline.labels.labeller import LabelOptions
from pipeline.labels.prepare import prepare
from pipeline.model.prepare import NetworkRequest

IMAGES_A_CORE = 192
MAX_PART_IMAGES = 256  # the job's default; fewer where a worker would have fewer parts than this:
MIN_PARTS_A_CORE = 6
MODEL = "lraspp_mobilenet_v3_large"
JOB, BARE, PLAIN = "the job", "bare loop", "loop of the field notes"

Rates = list[dict[str, float]]


@click.command()
@click.option("--photos", metavar="FOLDER", multiple=True, help="JPEGs to label; repeat it [default: the bundled photographs].")
@click.option("--images", type=click.IntRange(min=1), help=f"In a run of a contender [default: {IMAGES_A_CORE} a core].")
@click.option("--pairs", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds of all contenders.")
@click.option("--short-side", type=click.IntRange(16, 8192), default=520, show_default=True)
@click.option("--precision", type=click.Choice(get_args(Precision)), default="fp32", show_default=True)
@click.option("--usd-per-core-hour", type=click.FloatRange(min=0), help="Adds the price of a million images.")
@click.option("--source", type=click.Choice(("local", "s3", "both")), default="local", show_default=True, help="Of the tars.")
@click.option("--out", metavar="FOLDER", default=OUT, show_default=True)
def main(pairs: int, source: str, usd_per_core_hour: float | None, out: str, **task: Any) -> None:
    """Measure the whole job against a bare loop of processes on the same engine, threads, read-ahead and images."""
    run_job(lambda: _pipeline(pairs, source, usd_per_core_hour, out, **task))


def _pipeline(pairs: int, source: str, usd: float | None, out: str, **asked: Any) -> int:
    need_altair()
    found = machine()
    task = make_task(workers=found["cores"], **asked)
    click.echo(f"{task.describe()}; {pairs} rounds")
    expected = check_labels(task)
    with ExitStack() as stack:
        local = stack.enter_context(local_place())
        write_tars(Path(local.source), task.photographs, task.images, images_a_tar=PARTS_A_TAR * task.part_images)
        places = [local] if source != "s3" else []
        if source != "local":
            places.append(stack.enter_context(s3_place(sorted(Path(local.source).iterdir()))))
        measured = _measure(contenders(task, places, expected), pairs)
    rates = rates_of(measured)
    stages = {name: mean_of(breakdown(run, task.workers) for run in runs) for name, runs in measured.items()}
    beside = {name: mean_of(processes(run) for run in runs) for name, runs in measured.items() if name.startswith(JOB)}
    report = Report(
        name="pipeline",
        title=f"The job against a bare loop: {task.describe()}",
        machine=found,
        grids=(_speed(task, measured, rates, usd), stages_grid(stages), processes_grid(beside)),
        notes=_notes(measured, stages, expected),
        values={
            "task": {"images": task.images, "part_images": task.part_images, "tars": task.tars, "workers": task.workers,
                     "short_side": task.network.preset.short_side, "precision": task.network.precision},
            "images_per_s": rates, "ratios": {name: asdict(each) for name, each in _ratios(rates).items()},
            "stages": stages, "processes": beside, "agreement": expected.agreement,
            "runs": {name: [asdict(run) for run in runs] for name, runs in measured.items()},
        },
    )  # fmt: skip
    publish(report, out, {"stages": stages_chart(stages)})
    return 0


def make_task(*, photos: Sequence[str], images: int | None, workers: int, short_side: int, precision: str) -> Task:
    """As many images as were asked for, rounded up so that every worker has the same number of whole tars."""
    wanted = images or IMAGES_A_CORE * workers
    part_images = min(MAX_PART_IMAGES, max(1, wanted // (MIN_PARTS_A_CORE * workers)))
    found = spread(photographs(photos), part_images)
    step = PARTS_A_TAR * part_images * workers
    network = prepare(
        NetworkRequest(model=MODEL, weights="bundled", engine="openvino", precision=precision, short_side=short_side)
    )
    return Task(
        network=network, options=LabelOptions(classes=network.classes, preset=network.preset), workers=workers,
        photographs=tuple(found[number % len(found)] for number in range(part_images)), images=-(-wanted // step) * step,
    )  # fmt: skip


def contenders(task: Task, places: Sequence[Place], expected: Expected) -> dict[str, Callable[[], Measured]]:
    """Job and bare loop at each place; the loop of the field notes at the first."""
    runs: dict[str, Callable[[], Measured]] = {}
    for place in places:
        runs[f"{JOB}, {place.name}"] = partial(measure_job, task, place, expected)
        runs[f"{BARE}, {place.name}"] = partial(measure_loop, "bare", task, place, expected)
    runs[f"{PLAIN}, {places[0].name}"] = partial(measure_loop, "plain", task, places[0], expected)
    return runs


def _measure(runs: Mapping[str, Callable[[], Measured]], pairs: int) -> dict[str, list[Measured]]:
    measured: dict[str, list[Measured]] = {name: [] for name in runs}

    def run(name: str) -> float:
        done = runs[name]()
        measured[name].append(done)
        speed = f"{done.window.images_per_s:.2f} images/s, " if done.window else ""
        whole = f"{done.whole_images_per_s:.2f} with start-up and end, {done.seconds:.0f} s"
        click.echo(f"round {len(measured[name])} of {pairs}: {name}: {speed}{whole}")
        return done.whole_images_per_s

    for _ in interleaved({name: partial(run, name) for name in runs}, pairs):
        pass
    return measured


def rates_of(measured: Mapping[str, Sequence[Measured]]) -> Rates:
    """Images a second, round by round: at steady state, or, where one run was too short for that, with start-up for all."""
    steady = all(run.window for runs in measured.values() for run in runs)
    rounds = range(min(map(len, measured.values())))
    return [
        {
            name: run.window.images_per_s if steady and run.window else run.whole_images_per_s
            for name, run in ((name, runs[number]) for name, runs in measured.items())
        }
        for number in rounds
    ]


def _base(name: str) -> str:
    """Whom a contender is measured against: the job against the bare loop, that against the loop of the field notes."""
    kind, _, place = name.rpartition(", ")
    return f"{BARE if kind == JOB else PLAIN}, {place}"


def _ratios(rates: Rates) -> dict[str, Ratio]:
    """Of every contender whose base took part."""
    return {name: ratio(rates, name, _base(name)) for name in rates[0] if _base(name) in rates[0] and _base(name) != name}


def _speed(task: Task, measured: Mapping[str, Sequence[Measured]], rates: Rates, usd: float | None) -> Grid:
    ratios = _ratios(rates)
    priced = () if usd is None else (f"USD a million images at {usd:g} a core hour",)
    rows = []
    for name, runs in measured.items():
        rate = median(each[name] for each in rates)
        whole = median(run.whole_images_per_s for run in runs)
        price = () if usd is None else (f"{1e6 * task.workers / rate / 3600 * usd:.2f}",)
        rows.append((name, f"{rate:.2f}", f"{rate / task.workers:.2f}", f"{whole:.2f}", str(ratios.get(name, "-")), *price))
    columns = ("", "images/s", "a core", "with start-up and end", "ratio (95 %)", *priced)
    return Grid(columns, rows)


def _notes(measured: Mapping[str, Sequence[Measured]], stages: Mapping[str, Milliseconds], expected: Expected) -> tuple[str, ...]:
    runs = next(iter(measured.values()))
    notes = [
        f"Medians of {len(runs)} interleaved rounds. Ratios: job to bare loop, bare loop to the loop of the field notes.",
        "images/s: at steady state, from the moment when every worker has finished a part until one runs dry.",
        "Masks: the job's PNGs are the bare loop's, byte for byte; the field notes' loop agrees with them in "
        f"{100 * expected.agreement:.4f} % of {expected.pixels:,} pixels.",
        "Milliseconds are CPU time, means over the rounds. No loop commits; that of the field notes has no statistics either.",
    ]
    for name, each in measured.items():
        if stages.get(_base(name)) and stages[name] and _base(name) != name:
            mine, theirs = core_ms(stages[name]), core_ms(stages[_base(name)])
            times = f"{mine:.1f} ms, {_base(name)} {theirs:.1f}: {theirs / mine:.3f} of its speed"
            notes.append(f"By core time alone, without idle cores and other programs: {name} {times}.")
        if name.startswith(JOB):
            notes.append(f"{name}: a commit's put takes {median(run.put_ms for run in each):.2f} ms an image of wall time.")
    if any(run.window is None for each in measured.values() for run in each):
        notes.append("Too few images for a steady state: all rates include start-up and end. Give more --images.")
    return tuple(notes)
