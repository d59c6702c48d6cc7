"""Spans or parts -> actor pool -> reports, on Ray Data. Only this file, `ray_start.py` and `fleet.py` import Ray."""

import json
import math
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionOptions, TaskPoolStrategy

from pipeline.config import Workers
from pipeline.driver.fleet import Fleet, Task, Worker, faults_of_ray
from pipeline.driver.progress import Progress
from pipeline.driver.ray_start import is_own, start_ray
from pipeline.driver.rounds import RoundFailed, Rounds, gives_up_after
from pipeline.errors import Incomplete, MaskfleetError
from pipeline.model.engine import Prepared
from pipeline.output.parts import PartName
from pipeline.output.reports import Events, PartReport
from pipeline.output.span import Span
from pipeline.stopped import stop_if_asked
from pipeline.worker.cutting import all_pieces, most_at_once
from pipeline.worker.process import exit_without_destructors
from pipeline.worker.span_worker import WorkerConfig
from pipeline.worker.tasks import MapTask, SegmentTask

__all__ = ["fleet", "label", "map_parts", "share", "start_ray"]


BLOCKS = 1_000  # the driver makes so many blocks itself, one per span: this takes a second, 10,000 take ten
WAVE_PARTS = 50_000  # Ray holds so many parts at a time
CHUNK_SPANS = 500  # a feed takes so many spans at once
_FED_WORKERS, _MAX_FEEDS = 8, 8  # a feed gives two spans per turn of Ray Data's loop: 20 per second while workers are busy
_QUEUED = 8  # spans that wait in the driver may take so many times the bytes of the spans that workers have
_INIT_DEATHS = 10  # workers may die so often in a row while they start, and once more per worker: Ray starts them again


@faults_of_ray()
def fleet(asked: Workers | None, events: Events) -> Fleet:
    """The workers of an attempt on the Ray that was joined or started. asked: `--workers`."""
    return Fleet(asked, events, own=is_own())


@faults_of_ray()
def share(network: Prepared) -> "ray.ObjectRef[Prepared]":
    """Put the network where every worker fetches it once."""
    return ray.put(network)


def _feed(row: dict[str, bytes], config: WorkerConfig) -> Iterator[dict[str, str]]:
    """A chunk of spans -> one row per span. Spans to be cut come as pieces, while workers label others."""
    exit_without_destructors()
    spans = [Span.from_json(text) for text in json.loads(zlib.decompress(row["spans"]))]
    for piece in all_pieces(spans, read=config.read, part_images=config.part_images, output=config.output):
        yield {"item": piece.to_json()}


def _blocks(spans: Sequence[Span], config: WorkerConfig, workers: int) -> ray.data.Dataset:
    """The spans, each as a block of its own: the first at once, the others when workers need them, pieces last.

    Spans with secrets are never among the first: the driver puts these into the memory of the raylet, which may write them to a
    disk.
    """
    first, fed = list[Span](), list[Span]()
    for span in spans:
        at_once = len(first) < BLOCKS and span.piece_bytes is None and not span.is_signed
        (first if at_once else fed).append(span)
    direct = ray.data.from_items([{"item": span.to_json()} for span in first], override_num_blocks=len(first)) if first else None
    feeds = min(_MAX_FEEDS, 1 + math.ceil(workers / _FED_WORKERS))
    chunks = _chunks(fed, feeds)
    if not chunks:
        assert direct is not None
        return direct
    later = ray.data.from_items(chunks, override_num_blocks=len(chunks)).flat_map(
        _feed,  # type: ignore[arg-type]
        fn_kwargs={"config": config},
        num_cpus=0,  # workers hold all CPUs
        compute=TaskPoolStrategy(size=min(feeds, len(chunks))),
    )
    return later if direct is None else direct.union(later)


def _chunks(spans: Sequence[Span], feeds: int) -> list[dict[str, bytes]]:
    """Spans for the feeds: whole spans, dealt out in their order; then all spans to be cut, together."""
    whole = [span for span in spans if span.piece_bytes is None]
    rounds = [whole[first : first + feeds * CHUNK_SPANS] for first in range(0, len(whole), feeds * CHUNK_SPANS)]
    dealt = [some[feed::feeds] for some in rounds for feed in range(feeds)]
    dealt.append([span for span in spans if span.piece_bytes is not None])
    return [{"spans": zlib.compress(json.dumps([span.to_json() for span in chunk]).encode(), 1)} for chunk in dealt if chunk]


def label(
    spans: Sequence[Span], config: WorkerConfig, shared: "ray.ObjectRef[Prepared]", workers: Fleet
) -> Generator[PartReport]:
    """Label the spans of a round -> reports, in any order, as parts are committed. Closing the generator ends the workers.

    Raises `RoundFailed` if Ray fails, or if all workers are on nodes that refuse: the caller then plans what remains again.
    Raises `NoWorkerLeft` if no worker can start on any node.
    """
    parallel = most_at_once(spans, config.part_images)

    def items() -> ray.data.Dataset:
        return _blocks(spans, config, min(parallel, workers.may_be()))

    return _on_pool(items, SegmentTask(config), [shared], parallel, workers)


def map_parts(
    function: Callable[[PartName], Any], parts: Iterable[PartName], take: Callable[[PartName, Any], object], *,
    workers: Workers | None = None, events: Events | None = None, idle_minutes: float = 30.0, debug: bool = False,
) -> None:  # fmt: skip
    """Call `function` with each part in an actor pool, and `take` here with the part and the result, once per part.

    function: is pickled and sent to the workers; its result must be a value that JSON can hold. If a worker died or a store
    failed, the function is called again with the part, so its writes must be equal each time. take: is called in the order in
    which results come. events: are told of every report. idle_minutes: give up after so long without a result.
    Raises `NotReachable` without a Ray, `Incomplete` if rounds bring nothing new, a `MaskfleetError` such as `Damaged` if
    another try would meet it again, and `Bug` for an error that is not maskfleet's.
    """
    events = events or Events()
    mapping = Mapping(MapTask(function), parts, take, events, idle_minutes)
    reason = Rounds(partial(start_ray, debug=debug), partial(fleet, workers, events), debug=debug).run(mapping)
    if mapping.fatal is not None:
        raise mapping.fatal
    if mapping.remains():
        raise Incomplete(f"{len(mapping.remaining):,} parts remain ({reason}): run the same command again")


class Mapping:
    """A `rounds.Work`: the parts for which no result has come yet."""

    def __init__(
        self, task: MapTask, parts: Iterable[PartName], take: Callable[[PartName, Any], object], events: Events,
        idle_minutes: float,
    ) -> None:  # fmt: skip
        self.fatal: MaskfleetError | None = None
        self.remaining = dict.fromkeys(parts)
        self.done = 0
        self._task, self._take, self._events, self._idle_minutes = task, take, events, idle_minutes
        self._progress = Progress()
        events.listen(self._progress.hear)

    def remains(self) -> bool:
        """Is any part without a result?"""
        return bool(self.remaining)

    def look_again(self) -> None:
        """Do nothing: no other attempt works on these parts."""

    def send(self, fleet: Fleet, *, patient: bool) -> str | None:  # noqa: ARG002 - no other attempt works on these
        """Send the remaining parts to the workers, as `rounds.Work.send` says."""
        reason = None
        parts = list(self.remaining)
        for wave in (parts[at : at + WAVE_PARTS] for at in range(0, len(parts), WAVE_PARTS)):
            reports = _on_pool(partial(_items, wave), self._task, [], len(wave), fleet)
            with gives_up_after(self._idle_minutes, self._progress), closing(reports):
                for report in reports:
                    stop_if_asked()
                    self._events.report(report)
                    reason = report.error or reason
                    self.fatal = self.fatal or report.fatal
                    if self.fatal is not None:
                        return reason
                    if report.part in self.remaining:
                        del self.remaining[report.part]
                        self.done += 1
                        self._take(report.part, report.result)
        return reason


def _items(parts: Sequence[PartName]) -> ray.data.Dataset:
    rows = [{"item": json.dumps(asdict(part))} for part in parts]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS))


def _on_pool(
    items: Callable[[], ray.data.Dataset], task: Task, shared: list["ray.ObjectRef[Prepared]"], parallel: int, workers: Fleet
) -> Generator[PartReport]:
    """One round. items: makes rows {"item": text} when Ray Data is configured. parallel: workers that the items keep busy."""
    pool = workers.pool(parallel)
    _configure(DataContext.get_current(), pool)
    member = workers.begin(pool.initial_size)
    try:
        with faults_of_ray():
            dataset = items().map_batches(
                Worker,
                batch_size=1,
                num_cpus=1,
                fn_constructor_args=(task, shared, member),
                label_selector=workers.elsewhere(),
                compute=pool,
            )
            batches = iter(dataset.iter_batches(batch_size=None, prefetch_batches=0))
        while (batch := _next(batches)) is not None:
            for text in batch["report"]:
                report = PartReport.from_json(str(text))
                if report.refused:
                    workers.look()
                    raise RoundFailed(report.error)
                yield report
    finally:
        workers.end()


@faults_of_ray()
def _next(batches: Iterator[Any]) -> Any:
    """The next batch, or None. Any error of Ray, for example for lost nodes or dead workers, becomes `RoundFailed`."""
    return next(batches, None)


def _configure(context: DataContext, pool: ActorPoolStrategy) -> None:
    context.target_max_block_size = 1  # each span or report is a block at once: Ray would wait for 128 MiB of them
    context.downstream_capacity_backpressure_ratio = _QUEUED  # has an effect only without resource reservation
    context.max_consecutive_actor_init_deaths = _INIT_DEATHS + pool.initial_size
    context.op_resource_reservation_enabled = pool.min_size < pool.max_size  # a pool that grows needs to know free resources
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # grow when each worker has one span, no earlier
    context.print_on_execution_start = False
    context.enable_progress_bars = False
    context.execution_options = ExecutionOptions(preserve_order=False)
