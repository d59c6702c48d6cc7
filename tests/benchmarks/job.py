"""`pipeline`: the whole job against the bare loop, or against the job of another version in another checkout.

All contenders label the same tars, with one worker per core, in interleaved rounds. Masks are compared before a rate counts.
"""

import hashlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import click

from jobs.bench import photographs, write_tars
from jobs.command import run_job
from pipeline.config import Precision
from pipeline.errors import BadImage, Bug, UsageError
from pipeline.image.decode import decode
from pipeline.labels.prepare import prepare
from pipeline.model.engine import Prepared
from pipeline.model.prepare import NetworkRequest
from pipeline.model.zoo import DEFAULT_MODEL
from pipeline.storage import join, store_for
from tests.benchmarks import common, stages
from tests.benchmarks.loop import masks_digest, run_loop
from tests.benchmarks.runs import Ran, run_segment, steady
from tests.benchmarks.stages import Milliseconds
from tests.support.nodes import environment

IMAGES_PER_CORE = 192
PARTS_PER_TAR = 2
MAX_PART_IMAGES = 256  # the job's default; parts are smaller if a worker would get fewer than `MIN_PARTS_PER_CORE` parts
MIN_PARTS_PER_CORE = 6
JOB, LOOP, LOCAL, S3 = "the job", "bare loop", "local", "S3"
_BUCKET = "bench"

Rounds = list[dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The work of all contenders: `images` photographs in tars of two parts. Each part holds the photographs `part`."""

    network: Prepared
    part: tuple[bytes, ...]
    images: int
    workers: int

    def describe(self) -> str:
        """The task in one line."""
        tars = self.images // (PARTS_PER_TAR * len(self.part))
        size = f"short side {self.network.preset.short_side}, {self.network.precision}"
        return f"{self.images} images in {tars} tars, parts of {len(self.part)}, {self.workers} workers, {size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where tars lie and labels go. output: the first letters of the job's outputs. beside: more processes to watch."""

    name: str
    source: str
    output: str
    beside: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The figures of one run of a contender.

    steady_per_s: images/s in the steady state; None if the run was too short. whole_per_s: with start-up and end.
    stages, beside: CPU milliseconds per image in the steady state, by stage and by process. masks: a digest of all masks.
    parts: SHA-256 of each part file, by name.
    """

    seconds: float
    steady_per_s: float | None
    whole_per_s: float
    stages: Milliseconds
    beside: Milliseconds
    masks: int
    parts: dict[str, str] = field(default_factory=dict)


def done_of(run: Ran, images: int, workers: int, masks: int, parts: dict[str, str] | None = None) -> Done:
    """The figures of a run. Raises `Bug` if it labelled another number of images than the task has."""
    if run.images != images:
        raise Bug(f"{run.images} images were labelled, {images} are there")
    window = steady(run.stamps, workers)
    return Done(
        seconds=run.seconds, steady_per_s=window.images_per_s if window else None, whole_per_s=run.images / run.seconds,
        stages=stages.breakdown(run, window, workers) if window else {},
        beside=stages.processes(run, window) if window else {}, masks=masks, parts=parts or {},
    )  # fmt: skip


@click.command()
@common.with_photos
@click.option("--images", type=click.IntRange(min=1), help=f"In a run of a contender [default: {IMAGES_PER_CORE} per core].")
@common.with_rounds
@common.with_short_side
@click.option("--precision", type=click.Choice(get_args(Precision)), default="fp32", show_default=True)
@click.option("--source", type=click.Choice(("local", "s3", "both")), default="local", show_default=True, help="Of the tars.")
@click.option("--against", metavar="CHECKOUT", help="Measure the job of this other checkout instead of the bare loop.")
@common.with_out
def main(**options: Any) -> None:
    """Measure the whole job against a bare loop of processes on the same engine, or against another version of itself."""
    run_job(lambda: _pipeline(**options), goes_on=False)


def _pipeline(
    photos: Sequence[str], images: int | None, rounds: int, short_side: int, precision: str, source: str, against: str | None,
    out: str,
) -> int:  # fmt: skip
    other = None if against is None else Path(against).absolute()
    if other is not None and not (other / "jobs" / "segment.py").exists():
        raise UsageError(f"--against {against}: no checkout of maskfleet")
    data = [encoded for _, encoded in photographs(photos)]
    task = make_task(data, images or IMAGES_PER_CORE * common.cores(), common.cores(), short_side, precision)
    click.echo(f"{task.describe()}; {rounds} rounds")
    with ExitStack() as stack:
        local = stack.enter_context(local_place(task))
        places = [local] if source != "s3" else []
        if source != "local":
            places.append(stack.enter_context(s3_place(Path(local.source))))
        runs = {name: run for place in places for name, run in contenders(task, place, other).items()}
        done = measure(runs, rounds, same_labels=other is None)
    common.publish(report_of(task, done), out)
    return 0


def make_task(data: Sequence[bytes], images: int, workers: int, short_side: int, precision: str) -> Task:
    """A task of at least `images` images: each worker gets as many whole tars. Raises `UsageError` for a damaged photograph."""
    part_images = min(MAX_PART_IMAGES, max(1, images // (MIN_PARTS_PER_CORE * workers)))
    chosen, step = common.spread(data, part_images), PARTS_PER_TAR * part_images * workers
    for photograph in chosen:
        try:
            decode(photograph, max_source_pixels=1 << 40)
        except BadImage as error:
            raise UsageError(f"--photos: {error}") from error
    weights = str(common.ROOT / "pipeline" / "model" / "bundled.safetensors")  # by path: another version may bundle other weights
    network = prepare(
        NetworkRequest(model=DEFAULT_MODEL, weights=weights, engine="openvino", precision=precision, short_side=short_side)
    )
    part = tuple(chosen[number % len(chosen)] for number in range(part_images))
    return Task(network=network, part=part, images=-(-images // step) * step, workers=workers)


@contextmanager
def local_place(task: Task) -> Iterator[Place]:
    """The tars of the task in a local folder, which is removed after the body."""
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as scratch:
        write_tars(Path(scratch) / "in", task.part, task.images, PARTS_PER_TAR * len(task.part))
        yield Place(name=LOCAL, source=f"{scratch}/in", output=f"{scratch}/out")


@contextmanager
def s3_place(tars: Path) -> Iterator[Place]:
    """Copies of these tars in a bucket of a server, while the body runs. Environment variables name the server."""
    from tests.support.s3_server import S3Server

    with tempfile.TemporaryDirectory(prefix="maskfleet-") as scratch, S3Server(Path(scratch)) as server, environment(server.env):
        server.make_bucket(_BUCKET)
        for tar in sorted(tars.iterdir()):
            server.filesystem().put_file(str(tar), f"{_BUCKET}/in/{tar.name}")
        assert server.pid is not None
        yield Place(name=S3, source=f"s3://{_BUCKET}/in", output=f"s3://{_BUCKET}/out", beside=(server.pid,))


def contenders(task: Task, place: Place, other: Path | None) -> dict[str, Callable[[], Done]]:
    """The job and its opponent at one place: the bare loop, or the job in `other`."""
    base = (LOOP, partial(loop, task, place)) if other is None else (_named(other), partial(job, task, place, other))
    return {f"{name}, {place.name}": run for name, run in ((JOB, partial(job, task, place)), base)}


def job(task: Task, place: Place, checkout: Path | None = None) -> Done:
    """One run of the job, in this version or in that of `checkout`."""
    output = f"{place.output}-{time.time_ns()}"
    network = task.network
    flags = [
        "--input", place.source, "--output", output, "--weights", network.weights, "--engine", network.engine,
        "--short-side", network.preset.short_side, "--precision", network.precision,
        "--part-images", len(task.part), "--workers", task.workers,
    ]  # fmt: skip
    ran = run_segment(flags, checkout=checkout, beside=place.beside)
    store = store_for(output)
    parts = {info.uri.rpartition("/")[2]: hashlib.sha256(store.read(info.uri)).hexdigest()
             for info in store.walk(join(output, "masks") + "/")}  # fmt: skip
    return done_of(ran, task.images, task.workers, masks_digest(output), parts)


def loop(task: Task, place: Place) -> Done:
    """One run of the bare loop."""
    ran, masks = run_loop(task.network, place.source, task.workers, len(task.part), place.beside)
    return done_of(ran, task.images, task.workers, masks)


def measure(runs: dict[str, Callable[[], Done]], rounds: int, *, same_labels: bool) -> dict[str, list[Done]]:
    """Run all contenders in interleaved rounds.

    Raises `Bug` if the masks of a contender change between its runs, or if `same_labels` and two contenders differ.
    """
    done: dict[str, list[Done]] = {name: [] for name in runs}

    def run(name: str) -> float:
        each = runs[name]()
        before = [found[0] for other, found in done.items() if found and (same_labels or other == name)]
        if any(earlier.masks != each.masks for earlier in before):
            raise Bug(f"{name}: its masks are not those of the runs before it")
        done[name].append(each)
        speed = f"{each.steady_per_s:.2f} images/s, " if each.steady_per_s else ""
        whole = f"{each.whole_per_s:.2f} with start-up and end, {each.seconds:.0f} s"
        click.echo(f"round {len(done[name])} of {rounds}: {name}: {speed}{whole}")
        return each.whole_per_s

    for _ in common.interleaved({name: partial(run, name) for name in runs}, rounds):
        pass
    return done


def rounds_of(done: dict[str, list[Done]], figure: Callable[[Done], float]) -> Rounds:
    """One figure of each contender, round by round."""
    return [dict(zip(done, map(figure, runs), strict=True)) for runs in zip(*done.values(), strict=True)]


def report_of(task: Task, done: dict[str, list[Done]]) -> common.Report:
    """Tables and notes. Rates are those of the steady state; if one run was too short, all rates include start-up and end."""
    is_steady = all(each.steady_per_s for runs in done.values() for each in runs)
    rates = rounds_of(done, lambda each: (is_steady and each.steady_per_s) or each.whole_per_s)
    names = list(done)
    bases = dict(zip(names[::2], names[1::2], strict=True))
    ratios = {name: common.ratio(rates, name, base) for name, base in bases.items()}
    speeds = []
    for name, runs in done.items():
        rate = median(each[name] for each in rates)
        cells = (f"{rate:.2f}", f"{rate / task.workers:.2f}", f"{median(each.whole_per_s for each in runs):.2f}")
        speeds.append((name, *cells, str(ratios.get(name, "-"))))
    grids = [common.Grid(("", "images/s", "per core", "with start-up and end", "ratio (95 %)"), speeds)]
    notes = [f"Medians of {len(rates)} interleaved rounds; ratio: images/s of the job / of what it is measured against."]
    columns = {name: stages.mean_of(each.stages for each in runs) for name, runs in done.items()}
    core: dict[str, str] = {}
    if is_steady:
        beside = {name: stages.mean_of(each.beside for each in runs) for name, runs in done.items() if not name.startswith(LOOP)}
        grids += [stages.stages_grid(columns), stages.processes_grid(beside)]
        spent = rounds_of(done, lambda each: stages.core_ms(each.stages))
        core = {name: str(common.ratio(spent, base, name)) for name, base in bases.items()}
        notes += [
            "images/s: in the steady state, from the moment at which each worker has finished a part until one runs dry.",
            "Milliseconds are CPU time, means over the rounds. The bare loop commits nothing.",
        ]
        alone = "By core time alone, without idle cores and other programs"
        notes += [f"{alone}: {name}, {each} of the speed of {bases[name]}." for name, each in core.items()]
    else:
        notes.append("Too few images for a steady state: all rates include start-up and end. Give more --images.")
    notes += [_compared(name, done[name][-1], base, done[base][-1]) for name, base in bases.items()]
    return common.Report(
        name="pipeline", title=f"The job against {' and '.join(bases.values())}: {task.describe()}", grids=grids, notes=notes,
        values={
            "images": task.images, "part_images": len(task.part), "workers": task.workers, "images_per_s": rates,
            "ratios": {name: asdict(each) for name, each in ratios.items()}, "ratios_by_core_time": core, "stages": columns,
            "runs": {name: [asdict(each) for each in runs] for name, runs in done.items()},
        },
    )  # fmt: skip


def _compared(name: str, mine: Done, base: str, theirs: Done) -> str:
    """A sentence that compares the masks of two contenders, and their part files."""
    same = "byte for byte" if mine.masks == theirs.masks else "NOT the same"
    if not theirs.parts:
        return f"Masks of {name} and of {base}: {same}."
    equal = sum(theirs.parts.get(part) == digest for part, digest in mine.parts.items())
    return f"Masks of {name} and of {base}: {same}; {equal} of {len(mine.parts)} part files are equal, byte for byte."


def _named(other: Path) -> str:
    """The name of the job in another checkout, by its commit."""
    said = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=other, capture_output=True, text=True)
    return f"the job of {said.stdout.strip() or other.name}"
