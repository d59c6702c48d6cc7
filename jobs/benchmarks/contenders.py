"""Who is measured against whom: the job, the bare loop, the loop of the field notes; their labels are checked first."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jobs.benchmarks.bare import BareLabeller, LoopKind, make_loop, png_digest, run_bare
from jobs.benchmarks.cpu_shares import BENCHMARK, CpuShares
from jobs.benchmarks.places import Place
from jobs.benchmarks.steady import Window, steady
from jobs.benchmarks.whole_job import masks_digest, run_whole_job
from pipeline.errors import BadImage, Bug, UsageError
from pipeline.labels.labeller import Labeller, LabelOptions
from pipeline.labels.png import decode_png
from pipeline.model.engine import Prepared
from pipeline.model.loading import load_engine

MIN_AGREEMENT = 0.9999  # of pixels, between the loop of the field notes and the bare loop
PARTS_A_TAR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What all contenders label: `images` photographs in tars of two parts; every part holds `photographs`, in order."""

    network: Prepared
    options: LabelOptions
    photographs: tuple[bytes, ...]
    images: int
    workers: int

    @property
    def part_images(self) -> int:
        """Images in a part, and between two stamps of a loop."""
        return len(self.photographs)

    @property
    def tars(self) -> int:
        """As many for every worker."""
        return self.images // (PARTS_A_TAR * self.part_images)

    def describe(self) -> str:
        """One line."""
        size = f"short side {self.network.preset.short_side}, {self.network.precision}"
        return f"{self.images} images in {self.tars} tars, parts of {self.part_images}, {self.workers} workers, {size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of one contender.

    seconds: from its start to its end. window: its steady state, or None where the run was too short for one.
    cpu_s: CPU seconds in that window by process. put_ms: wall time of the commits, an image.
    """

    images: int
    seconds: float
    window: Window | None
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    put_ms: float = 0.0

    @property
    def whole_images_per_s(self) -> float:
        """Start-up and end included."""
        return self.images / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The digest that each loop's masks must have, and the pixels on which the two loops agree."""

    digests: Mapping[LoopKind, int]
    agreement: float
    pixels: int


def check_labels(task: Task) -> Expected:
    """Label each photograph once by both loops. Raises `UsageError` for a bad photograph, `Bug` where they disagree."""
    ours = BareLabeller(Labeller(load_engine(task.network), task.options))
    plain = make_loop("plain", task.network, task.options)
    pngs: dict[LoopKind, list[bytes]] = {"bare": [], "plain": []}
    equal = pixels = 0
    for number, data in enumerate(task.photographs):
        try:
            pngs["bare"].append(ours.label(ours.read(data)))
        except BadImage as error:
            raise UsageError(f"--photos: photograph {number} cannot be labelled: {error}") from error
        pngs["plain"].append(plain.label(plain.read(data)))
        mine, theirs = decode_png(pngs["bare"][-1]), decode_png(pngs["plain"][-1])
        equal, pixels = equal + int(np.count_nonzero(mine == theirs)), pixels + mine.size
    if equal < MIN_AGREEMENT * pixels:
        raise Bug(f"the loop of the field notes labels {pixels - equal} of {pixels} pixels differently")
    return Expected(digests={kind: _digest(task, made) for kind, made in pngs.items()}, agreement=equal / pixels, pixels=pixels)


def _digest(task: Task, pngs: Sequence[bytes]) -> int:
    images = range(PARTS_A_TAR * task.part_images)
    return sum(
        png_digest(f"{tar:05d}.tar", index, pngs[index % task.part_images]) for tar in range(task.tars) for index in images
    )


def measure_job(task: Task, place: Place, expected: Expected) -> Measured:
    """One run of the whole job. Raises `Bug` where its masks are not the bare loop's."""
    output = f"{place.output}-{time.time_ns()}"
    done = run_whole_job(
        place.source, output, task.network, part_images=task.part_images, workers=task.workers, beside=place.beside
    )
    _check("the job", masks_digest(output), expected.digests["bare"])
    put_ms = done.run["attempts"][-1]["milliseconds"]["commit"] / task.images
    window = steady(done.stamps) if len(done.stamps) == task.workers else None
    return _measured(task, done.seconds, window, done.shares, put_ms)


def measure_loop(kind: LoopKind, task: Task, place: Place, expected: Expected) -> Measured:
    """One run of a loop of plain processes. Raises `Bug` where its masks are not those of the check."""
    shards = place.shards()
    started = time.perf_counter()
    with CpuShares(os.getpid(), BENCHMARK, place.beside) as shares:
        done = run_bare(kind, task.network, task.options, shards, task.workers, task.part_images)
    seconds = time.perf_counter() - started
    _check(kind, sum(each.digest for each in done), expected.digests[kind])
    window = steady({number: each.stamps for number, each in enumerate(done)})
    return _measured(task, seconds, window, shares)


def _measured(task: Task, seconds: float, window: Window | None, shares: CpuShares, put_ms: float = 0.0) -> Measured:
    cpu_s = shares.between(window.start, window.stop) if window else {}
    return Measured(images=task.images, seconds=seconds, window=window, cpu_s=cpu_s, put_ms=put_ms)


def _check(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise Bug(f"{name}: its masks differ from those of the same photographs labelled before the start")
