"""Spans -> actor pool -> receipts, on Ray Data; with `own_ray.py` the only import of Ray."""

import logging
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionOptions
from ray.data._internal.execution.execution_callback import ExecutionCallback  # the base that DataContext asks for

from pipeline.errors import MaskfleetError
from pipeline.model.engine import Prepared
from pipeline.run.leave import leave_without_destructors
from pipeline.run.left import SPANS_AHEAD, cut
from pipeline.run.malloc import ONE_ARENA, bound_malloc
from pipeline.run.own_ray import lone_ray, quiet_ray_data, remember_as_own
from pipeline.run.span import Receipt, Span
from pipeline.run.worker import SegmentSpan, WorkerConfig
from pipeline.shards.base import ReadOptions


class PassFailed(Exception):
    """A fault of Ray or of the cluster ended a pass; what is left can be sent again."""


MAX_BLOCKS = 10_000  # of the list of spans: a block a span up to here
_LAST_PARTS, _SHORT_PART_S, _LONGEST_PAUSE_S = 16, 0.3, 0.5  # the loop itself waits 0.1 s, and Ray 2 s for the loop to end
_INIT_DEATHS = 10  # a worker may die while it starts, and be started again
_LOCAL_OBJECT_STORE_BYTES = 256 << 20  # spans and receipts are small; images never enter it
_UNWATCHED = {  # what a Ray of this run alone need not do: nobody asks for metrics or tasks
    "RAY_enable_metrics_collection": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",
    "RAY_task_events_report_interval_ms": "0",
}


def start_ray(*, debug: bool) -> bool:
    """Join the cluster that `RAY_ADDRESS` or this machine names, else start Ray here (`RAY_ADDRESS=local`: always here).

    Returns whether it was started here, so that workers run on this machine alone.
    """
    if ray.is_initialized():
        return False
    if not debug:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a FutureWarning
    quiet: dict[str, Any] = {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if debug:
        started = _join_or_start(quiet)
    else:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else an error line for every actor pool, about its arguments
        with _held_stderr():  # Ray's C++ side says there that it obeys the line above
            started = _join_or_start(quiet)
    for number, handler in before.items():  # ray.init replaces SIGTERM's by sys.exit(15)
        signal.signal(number, handler)
    return started


@contextmanager
def _held_stderr() -> Iterator[None]:
    """Keep what is written to stderr by C++ code; shown only if the body raises."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(real, kept.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)


def _join_or_start(quiet: dict[str, Any]) -> bool:
    address = os.environ.get("RAY_ADDRESS")
    if address != "local":
        try:
            ray.init(address=address or "auto", **quiet)
            return False
        except ConnectionError:
            if address:
                raise
    for name, value in (_UNWATCHED | ONE_ARENA).items():
        os.environ.setdefault(name, value)
    with lone_ray(logs=quiet["log_to_driver"]):
        ray.init(address="local", include_dashboard=False, object_store_memory=_LOCAL_OBJECT_STORE_BYTES, **quiet)
    remember_as_own()
    return True


def cores() -> int:
    """CPUs of the cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]


Shared = tuple[Prepared, dict[str, str]]


def share(network: Prepared, secrets: dict[str, str]) -> "ray.ObjectRef[Shared]":
    """Put the network, and the secret URIs of presigned inputs, where every worker fetches them once."""
    return ray.put((network, secrets))


class _Worker:
    """`SegmentSpan` for Ray Data: a batch of one span in, receipts out, as JSON both ways.

    The network comes with the calls: in the constructor's arguments Ray warns of it at every start.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._segment: SegmentSpan | None = None

    def __call__(self, batch: dict[str, Any], shared: list["ray.ObjectRef[Shared]"]) -> Iterator[dict[str, list[str]]]:
        if self._segment is None:
            bound_malloc()
            leave_without_destructors()
            try:
                self._segment = SegmentSpan(self._config, *ray.get(shared[0]))
            except MaskfleetError as refused:  # a precision that this worker's CPU has not: as a value, else Ray tries again
                yield {"receipt": [Receipt(error=str(refused), error_class=type(refused).__name__).to_json()]}
                return
        for text in batch["span"]:
            for receipt in self._segment(Span.from_json(str(text))):
                yield {"receipt": [receipt.to_json()]}


class _Pace(ExecutionCallback):
    """Slows down Ray Data's loop in the driver, which else turns ten times a second however long spans take.

    A worker has its next span waiting: it does not wait for the driver while that is late by less than a span takes.
    """

    took: ClassVar[deque[float]] = deque(maxlen=_LAST_PARTS)  # seconds a part; a span takes no less

    @classmethod
    def pause_s(cls) -> float:
        """Seconds between two turns: none before the first part, and none where parts are short."""
        return min(_LONGEST_PAUSE_S, max(0.0, min(cls.took, default=0.0) - _SHORT_PART_S) / 2)

    def on_execution_step(self, _executor: Any) -> None:
        """Called by the loop at the end of each turn."""
        time.sleep(self.pause_s())


def label(spans: Sequence[Span], config: WorkerConfig, shared: "ray.ObjectRef[Shared]", workers: int) -> Iterator[Receipt]:
    """Receipts as the parts are committed, in no order. Raises `PassFailed` when Ray does: plan again what is left."""
    with quiet_ray_data():
        yield from _label(spans, config, shared, workers)


def _label(spans: Sequence[Span], config: WorkerConfig, shared: "ray.ObjectRef[Shared]", workers: int) -> Iterator[Receipt]:
    _configure(DataContext.get_current())
    rows = [{"span": span.to_json()} for span in spans]
    try:
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map_batches(
            _Worker,  # type: ignore[arg-type]
            batch_size=1,
            num_cpus=1,
            fn_constructor_args=(config,),
            fn_kwargs={"shared": [shared]},
            compute=_pool(min(workers, len(spans))),
        )
        batches = iter(dataset.iter_batches(batch_size=None, prefetch_batches=0))
    except Exception as error:
        raise PassFailed(_first_line(error)) from error
    try:
        while (batch := _next(batches)) is not None:
            for text in batch["receipt"]:
                receipt = Receipt.from_json(str(text))
                _Pace.took.append(receipt.seconds)
                yield receipt
    finally:
        _Pace.took.clear()


def _next(batches: Iterator[Any]) -> Any:
    """The next batch, or None; whatever Ray makes of lost nodes and dead workers is a `PassFailed`."""
    try:
        return next(batches, None)
    except Exception as error:
        raise PassFailed(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def cut_spans(spans: Sequence[Span], read: ReadOptions, part_images: int, pieces: int, secrets: Mapping[str, str]) -> list[Span]:
    """Few big shards as more spans: tar headers are walked by tasks, before the actors take the cores."""
    _configure(DataContext.get_current())

    def cut_row(row: dict[str, str]) -> list[dict[str, str]]:
        leave_without_destructors()
        span = Span.from_json(row["span"])
        pieces_of = cut(span, read=read, part_images=part_images, pieces=pieces, fetch_uri=secrets.get(span.source.uri))
        return [{"span": piece.to_json()} for piece in pieces_of]

    rows = [{"span": span.to_json()} for span in spans]
    try:
        with quiet_ray_data():
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).flat_map(cut_row)
            return [Span.from_json(row["span"]) for row in dataset.take_all()]
    except Exception as error:
        raise PassFailed(_first_line(error)) from error


def _pool(workers: int) -> ActorPoolStrategy:
    """A fixed pool where the cores are there; else one that grows as the cluster does."""
    have = min(workers, cores())
    if have == workers:
        return ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=SPANS_AHEAD)
    return ActorPoolStrategy(min_size=have, max_size=workers, max_tasks_in_flight_per_actor=SPANS_AHEAD)


def _configure(context: DataContext) -> None:
    context.target_max_block_size = 1  # a receipt is a block at once, and not when 128 MiB of them have gathered
    context.max_consecutive_actor_init_deaths = _INIT_DEATHS
    context.op_resource_reservation_enabled = False  # there is one operator: nothing to share out, ten times a second
    context.custom_execution_callback_classes = [_Pace]
    context.print_on_execution_start = False
    context.enable_progress_bars = False
    context.execution_options = ExecutionOptions(preserve_order=False)
