"""Labels a sample in as many processes as there will be workers, and measures seconds, failures, classes, output bytes."""

import math
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier

import numpy as np
import numpy.typing as npt

from pipeline.config import encoded_bytes_limit
from pipeline.errors import BadImage, Incomplete
from pipeline.labels.labeller import Labeller, LabelOptions, Resized
from pipeline.model.engine import Prepared
from pipeline.model.loading import load_engine
from pipeline.output.footer import failures_bytes, part_bytes
from pipeline.output.part_writer import Draft, PartOptions
from pipeline.output.span import Span
from pipeline.shards.base import Cursor, EncodedImage, SourceObject
from pipeline.worker.prefetch import ReadAhead
from pipeline.worker.reading import IMAGES_AHEAD

_MIN_SHARE = 8  # images per process: on many cores no process is timed by a single image
_BARRIER_S = 300.0


Outcome = str | npt.NDArray[np.int64]  # for one image: the class of its error, or its pixels by class, int64 (C,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What labelling the sample showed. *_bytes: output bytes per image, per part and per file of failures.

    cpu_s_per_image: if this is much below `seconds_per_image`, other programs took the rest.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    seconds_per_image: float = 0.0
    cpu_s_per_image: float = 0.0
    image_bytes: float = 0.0
    part_bytes: float = 0.0
    failures_bytes: float = 0.0
    milliseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Half:
    """What one process measured on half of its share of the sample."""

    images: int
    outcomes: dict[int, Outcome]
    seconds: float
    cpu_s: float
    row_bytes: float
    part_bytes: float
    failures_bytes: int
    milliseconds: dict[str, float]


def measure(network: Prepared, options: LabelOptions, images: Sequence[EncodedImage], processes: int) -> Sample:
    """Label in as many processes at once as there will be workers here: workers share caches, clock and hyperthreads."""
    if not images:
        return Sample()
    numbered = list(enumerate(images))
    size = max(math.ceil(len(images) / processes), min(_MIN_SHARE, len(images)))
    shares = [[numbered[(first + step) % len(images)] for step in range(size)] for first in range(0, processes * size, size)]
    try:
        if processes == 1:
            halves = [_label_twice(network, options, shares[0])]
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(processes, context, _begin, (context.Barrier(processes),)) as pool:
                halves = list(pool.map(_label_twice, [network] * processes, [options] * processes, shares))
    except BrokenProcessPool as error:
        raise Incomplete("a process died while it labelled the sample: is there memory for --workers?") from error
    except MemoryError as error:
        raise Incomplete("memory ran out while the sample was labelled: is there enough for --workers?") from error
    both = [each for pair in halves for each in pair]
    timed = [second for _, second in halves]
    stages = Counter[str]()
    for each in timed:
        stages.update(each.milliseconds)
    outcomes = {number: outcome for each in both for number, outcome in each.outcomes.items()}
    count = sum(each.images for each in timed)
    return Sample(
        outcomes=[outcomes[number] for number in sorted(outcomes)],
        seconds_per_image=sum(each.seconds for each in timed) / count,
        cpu_s_per_image=sum(each.cpu_s for each in timed) / count,
        image_bytes=sum(each.row_bytes for each in both) / sum(each.images for each in both),
        part_bytes=sum(each.part_bytes for each in both) / len(both),
        failures_bytes=max(each.failures_bytes for each in both),
        milliseconds={stage: round(spent / count, 2) for stage, spent in stages.items()},
    )


_barriers: list[Barrier] = []  # the barrier of this process: a barrier cannot be sent with a task


def _begin(barrier: Barrier) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _barriers.append(barrier)


def _label_twice(network: Prepared, options: LabelOptions, share: Sequence[tuple[int, EncodedImage]]) -> tuple[_Half, _Half]:
    """Label both halves of a share: the first warms up, the second is timed, and meets new shapes as often as a run does."""
    labeller = Labeller(load_engine(network), options)
    half = len(share) // 2 if len(share) >= 2 * _MIN_SHARE else 0
    first = _label(labeller, share[:half] or share)
    for barrier in _barriers:
        barrier.wait(_BARRIER_S)
    labeller.milliseconds.clear()
    return first, _label(labeller, share[half:])


def _label(labeller: Labeller, share: Sequence[tuple[int, EncodedImage]]) -> _Half:
    """Label as a worker does: images are read ahead in a thread, rows are made, a part is packed."""
    started, cpu = time.perf_counter(), time.process_time()
    outcomes: dict[int, Outcome] = {}
    options = PartOptions(
        fingerprint="0" * 64, classes=labeller.options.classes, part_images=0,  # 0: the part is not padded
        confidence_map=labeller.options.confidence_map, max_encoded_bytes=encoded_bytes_limit(labeller.options.max_source_pixels),
    )  # fmt: skip
    source = SourceObject(uri=share[0][1].shard, kind="tar", size=1, version="")
    draft = Draft(options, {}, Span(source=source, digest="", first=0, stop=None), 0, Cursor())
    for number, image, resized in ReadAhead(_resized(labeller, share), IMAGES_AHEAD):
        try:
            if isinstance(resized, BadImage):
                raise resized
            labelled = labeller.label(resized)
        except BadImage as error:
            outcomes[number] = error.kind
            draft.fail(image, error)
        else:
            outcomes[number] = labelled.statistics.pixels
            draft.add(image, labelled)
    footer, data = draft.finish(exhausted=False)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    # The size of a file has a fixed share and a share per row: files of one row, and the file of all rows, give both.
    rows = draft.rows
    single = [len(part_bytes([row], footer, confidence_map=options.confidence_map)) for row in rows]
    row_bytes = (len(data) - sum(single) / len(rows)) / (len(rows) - 1) if len(rows) > 1 else 0.0
    return _Half(
        images=len(share), outcomes=outcomes, seconds=seconds, cpu_s=cpu_s, row_bytes=row_bytes * len(rows),
        part_bytes=len(data) - row_bytes * len(rows),
        failures_bytes=len(failures_bytes(footer)) if draft.failures else 0, milliseconds=dict(labeller.milliseconds),
    )  # fmt: skip


def _resized(
    labeller: Labeller, share: Iterable[tuple[int, EncodedImage]]
) -> Iterator[tuple[int, EncodedImage, Resized | BadImage]]:
    for number, image in share:
        try:
            if image.error is not None or image.data is None:
                raise image.error or BadImage("no data")
            yield number, image, labeller.read(image.data, image.name)
        except BadImage as error:
            yield number, image, error
