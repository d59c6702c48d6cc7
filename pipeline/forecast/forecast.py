"""`forecast(config)`: what a run would take. It lists, counts, labels 64 images, and writes nothing into OUT."""

import heapq
import math
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import SegmentConfig
from pipeline.driver.attempt import REFRESH_S
from pipeline.driver.planning import Begun, Hooks, make_plan
from pipeline.errors import BadImage, NotReachable, StorageError
from pipeline.forecast.estimate import RemainingWork, Seen
from pipeline.forecast.noted import Noted
from pipeline.forecast.rehearsal import NOTHING, rehearse
from pipeline.forecast.sample import Outcome, measure
from pipeline.image.decode import decode
from pipeline.labels.prepare import prepare
from pipeline.listing.listing import Listing
from pipeline.model.engine import Prepared
from pipeline.output.remaining import SPANS_AHEAD, remaining_spans
from pipeline.output.span import Span
from pipeline.plan.options import label_options, network_request
from pipeline.shards.base import EncodedImage
from pipeline.storage import scheme_of, writable_store_for

_BUSY = 1.2  # seconds / CPU seconds of labelling; above this, other programs keep the machine busy
_DECODING_S = 2.0
_PAGE = 1000  # objects per LIST request
_SIMULATED = 100_000  # with more spans than this, no span is long compared with the whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """How many requests go to object stores. HEAD counts as GET."""

    get: int
    put: int
    list: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What this run is expected to do for the images that remain. skipped: images that were committed before.

    tars, parquet_files, single_images: as planned. exact: were the images counted, not estimated? bytes: to be read.
    labelled, failures, errors, classes, milliseconds (per image, by stage): measured on the sample. seconds_per_image: of one
    worker while all workers work. seconds: the whole job, with listing, `start_seconds` and `labelling_seconds`.
    core_hours: all workers for `seconds`.
    """

    tars: int
    parquet_files: int
    single_images: int
    ignored_objects: int
    images: int
    exact: bool
    skipped: int
    bytes: int
    parts: int
    workers: int
    labelled: int
    failures: int
    errors: dict[str, int]
    classes: list[dict[str, Any]]
    milliseconds: dict[str, float]
    seconds_per_image: float
    labelling_seconds: float
    start_seconds: float
    seconds: float
    output_objects: int
    output_bytes: int
    requests: Requests
    core_hours: float
    usd: float | None
    notes: tuple[str, ...] = ()

    @property
    def images_per_s(self) -> float:
        """The speed of all workers together while they label."""
        return self.images / self.labelling_seconds if self.labelling_seconds else 0.0

    @property
    def images_per_s_a_core(self) -> float:
        """The speed of one worker."""
        return 1 / self.seconds_per_image if self.seconds_per_image else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The values for `--json`."""
        return asdict(self) | {"images_per_s": self.images_per_s, "images_per_s_a_core": self.images_per_s_a_core}


def forecast(config: SegmentConfig) -> Forecast:
    """Forecast a run for the images that OUT does not hold yet. Nothing is written into OUT; a rehearsal writes elsewhere.

    Raises the errors that the run would raise before it starts.
    """
    store, listing, seen = Noted(writable_store_for(config.output)), Listing(), Seen()
    waited_s, started = 0.0, time.perf_counter()

    def network() -> Prepared:
        nonlocal waited_s
        begun = time.perf_counter()
        prepared = prepare(network_request(config))
        waited_s = time.perf_counter() - begun
        return prepared

    plan, prepared = make_plan(config, store, listing, network, Hooks(watch=seen.watch))
    planned_files = len(plan.files) - len(store.created)
    begun = Begun.of(config, store, plan, prepared)
    skipped, committed = begun.look(config, store), begun.committed  # removals are only noted, not done
    unread = int(np.count_nonzero(~begun.sums.totals.has(committed.part_keys)))
    cores = _cores()
    workers = config.workers.within(cores) if config.workers else cores
    spans = remaining_spans(plan, committed, part_images=config.part_images, workers=workers)
    listing_s = time.perf_counter() - started - waited_s

    left = RemainingWork(config, listing)
    try:
        left.count(spans, seen, workers)
    except StorageError as error:
        raise NotReachable(str(error)) from error
    share = 1.0 if config.limit is None or not left.images else min(1.0, max(0, config.limit - skipped) / left.images)
    images, parts = round(left.images * share), math.ceil(left.parts * share)
    chosen, processes = left.sample() if parts else [], min(workers, cores)
    sample = measure(begun.network, label_options(config, begun.network), chosen, processes)
    failures = Counter(outcome for outcome in sample.outcomes if isinstance(outcome, str))
    more, damaged = _decoded(left.spare(chosen), config)
    sound = 1 - (failures.total() + damaged) / max(1, len(sample.outcomes) + more)
    trial = rehearse(config, chosen, processes) if chosen else NOTHING
    # Besides labelling, a run takes time on this machine: Python and Ray start, workers load the network and meet the first
    # image shapes, Ray ends. The network is in the cache by now, so this time does not hold its preparation.
    busy = sample.seconds_per_image > _BUSY * sample.cpu_s_per_image
    image_s = sample.cpu_s_per_image if busy else sample.seconds_per_image
    start_s = max(0.0, trial.seconds - trial.images * sample.seconds_per_image)
    labelling_s = share * (_busiest(left.tasks, workers) * image_s + _read_s(left, workers, cores))
    seconds = listing_s + (start_s + labelling_s if parts else 0.0)
    core_hours = workers * seconds / 3600
    done = committed.part_count
    failing = round(parts * (1 - sound ** (images / max(1, parts))))  # parts with a failure
    new, refreshes = planned_files == 0, int(seconds / REFRESH_S)
    requests = Requests(
        # The plan, and three looks for a next plan file; run.json at the start, twice at the end, and before each replacement;
        # the checkpoint, and a look if it is unchanged; for a new output a trial if the store creates exclusively, and the head
        # of the first shard; footers; per part a look if the part is there; the input.
        get=planned_files + 3 + (3 + refreshes + (not new)) + 3 + 4 * new + unread + parts + round(left.gets * share),
        # The trial of a new output, the plan, masks, failures of the parts that have some, class_stats, the checkpoint; run.json
        # at the start, at the end and in between.
        put=4 * new + len(store.created) + parts + failing + 4 + refreshes,
        # The input; plan/; the trial of a new output; masks/ before the round, after it and while summing up; failures/.
        list=len(config.input) + (seen.entries + listing.ignored) // _PAGE + 2 * new + 4 + 3 * ((done + parts) // _PAGE),
    )
    output_bytes = round(
        sum(store.created) + parts * sample.part_bytes + images * sample.image_bytes + failing * sample.failures_bytes
        + trial.run_json_bytes + trial.class_stats_bytes + trial.checkpoint_bytes
    )  # fmt: skip
    kinds = Counter(shard.kind for shard in plan.shards.values())
    single = sum(file.rows - len(plan.superseded.get(file.number, ())) for file in plan.files if file.images)
    return Forecast(
        tars=kinds["tar"], parquet_files=kinds["parquet"], single_images=single, ignored_objects=listing.ignored,
        images=images, exact=left.exact, skipped=skipped, bytes=round(left.bytes * share), parts=parts, workers=workers,
        labelled=len(sample.outcomes), failures=failures.total(), errors=dict(failures.most_common()),
        classes=_classes(sample.outcomes, begun.network.classes), milliseconds=sample.milliseconds,
        seconds_per_image=image_s, labelling_seconds=labelling_s, start_seconds=start_s, seconds=seconds,
        output_objects=len(store.created) + parts + failing + (3 if parts else 0), output_bytes=output_bytes, requests=requests,
        core_hours=core_hours, usd=None if config.usd_per_core_hour is None else core_hours * config.usd_per_core_hour,
        notes=tuple(_notes(config, cores, left, spans, busy=busy)),
    )  # fmt: skip


def _notes(config: SegmentConfig, cores: int, left: RemainingWork, spans: Sequence[Span], *, busy: bool) -> Iterator[str]:
    if busy:
        yield "other programs took much of the cores while the sample was labelled: labelling is forecast for when they are gone"
    fixed = config.workers is not None and config.workers.min == config.workers.max
    if not fixed and os.environ.get("RAY_ADDRESS", "local") != "local":
        yield f"the {cores} cores of this machine were counted, not those of the cluster at RAY_ADDRESS: give --workers N"
    yield from left.notes
    if config.limit is not None:
        yield f"--limit {config.limit}: the run stops there, at the end of the parts that are begun"
    if all(scheme_of(uri) == "file" for uri in (config.output, *config.input, *(span.source.uri for span in spans))):
        yield "input and output are local: the requests are what an object store would get"


def _decoded(images: Iterable[EncodedImage], config: SegmentConfig) -> tuple[int, int]:
    """Decode images for two seconds -> how many were tried, and how many cannot be decoded.

    A sample of 64 images says little about rare damage.
    """
    started, count, damaged = time.perf_counter(), 0, 0
    for image in images:
        if time.perf_counter() - started > _DECODING_S:
            break
        count += 1
        try:
            if image.error is not None or image.data is None:
                raise image.error or BadImage("no data")
            decode(image.data, max_source_pixels=config.max_source_pixels, name=image.name)
        except BadImage:
            damaged += 1
        except MemoryError:  # this machine lacks memory now; it says nothing about the image
            count -= 1
    return count, damaged


def _busiest(tasks: Sequence[float], workers: int) -> float:
    """How many images the worker labels that ends last. The longest spans go first, and each worker has one more waiting."""
    if len(tasks) > _SIMULATED:
        return sum(tasks) / workers
    waiting = iter(sorted(tasks, reverse=True))
    mine: list[deque[float]] = [deque() for _ in range(workers)]
    for _, held in product(range(SPANS_AHEAD), mine):
        held.extend(islice(waiting, 1))
    done = [(held[0], worker) for worker, held in enumerate(mine) if held]  # when each worker has finished its span
    heapq.heapify(done)
    ended = 0.0
    while done:
        ended, worker = heapq.heappop(done)
        mine[worker].popleft()
        mine[worker].extend(islice(waiting, 1))
        if mine[worker]:
            heapq.heappush(done, (ended + mine[worker][0], worker))
    return ended


def _read_s(left: RemainingWork, workers: int, cores: int) -> float:
    """How many seconds reading costs each worker. If each core has a worker, the thread that reads ahead takes its time."""
    return left.read_s / workers if workers >= cores else 0.0


def _cores() -> int:
    """How many cores this machine has, or how many its container may use, as Ray counts them."""
    count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # there is no such file, or it says "max": no limit
        return count


def _classes(outcomes: Iterable[Outcome], names: Sequence[str]) -> list[dict[str, Any]]:
    """The classes in the sample, the one with most pixels first."""
    masks = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    pixels = sum(masks, np.zeros(len(names), np.int64))
    rows = [
        {
            "class_id": class_id, "name": names[class_id], "images": sum(bool(mask[class_id]) for mask in masks),
            "pixels": int(pixels[class_id]), "fraction": float(pixels[class_id] / pixels.sum()),
        }
        for class_id in np.flatnonzero(pixels).tolist()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["pixels"])
