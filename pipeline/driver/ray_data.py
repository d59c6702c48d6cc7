"""Spans -> actor pool -> reports, on Ray Data; with `fleet.py` the only import of Ray, and of its public names."""

import json
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionOptions, TaskPoolStrategy

from pipeline.config import Workers
from pipeline.driver.fleet import Fleet, NoWorkerLeft, RoundFailed, Worker, faults_of_ray, first_line
from pipeline.errors import NotReachable
from pipeline.memory import ONE_ARENA
from pipeline.model.engine import Prepared
from pipeline.output.span import PartReport, Span
from pipeline.worker.cutting import all_pieces, most_at_once
from pipeline.worker.process import exit_without_destructors
from pipeline.worker.span_worker import WorkerConfig

__all__ = ["NoWorkerLeft", "RoundFailed", "fleet", "label", "share", "start_ray"]


BLOCKS = 1_000  # that the driver makes of spans itself, one a span: a second's work, and 10,000 take ten
CHUNK_SPANS = 500  # that a feed takes at once
_FED_WORKERS, _MAX_FEEDS = 8, 8  # a feed gives two spans a turn of Ray Data's loop: 20 a second where workers are busy
_QUEUED = 8  # times the bytes of the spans that workers have, waiting for them in the driver
_INIT_DEATHS = 10  # in a row, besides one of each: a worker may die while it starts, and be started again
_LOCAL_OBJECT_STORE_BYTES = 256 << 20  # spans and reports are small; images never enter it
_KNOCK_S = 20.0  # that the head of a cluster may take to accept a connection
_own: set[str] = set()  # the driver's nodes of the Rays that were started here
_UNWATCHED = {  # what a Ray of this run alone need not do: nobody asks for metrics or tasks
    "RAY_enable_metrics_collection": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",
    "RAY_task_events_report_interval_ms": "0",
}


def start_ray(*, debug: bool) -> bool:
    """Join the cluster that `RAY_ADDRESS` or this machine names, else start Ray here (`RAY_ADDRESS=local`: always here).

    Returns whether it was started here, so that workers run on this machine alone. Raises `NotReachable` if there is no Ray at
    `RAY_ADDRESS`, or one of another version.
    """
    if ray.is_initialized():
        return False
    if not debug:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a FutureWarning
    quiet: dict[str, Any] = {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stopped = False
    try:
        if debug:
            return _join_or_start(quiet)
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else an error line for every actor pool, about its arguments
        with _held_stderr():  # Ray's C++ side says there that it obeys the line above
            return _join_or_start(quiet)
    except SystemExit as ended:  # ray.init replaces SIGTERM's handler by sys.exit(15)
        stopped = ended.code == signal.SIGTERM
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if stopped:
            signal.raise_signal(signal.SIGTERM)


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
        _knock(address)
        try:
            ray.init(address=address or "auto", **quiet)
            return False
        except (ConnectionError, RuntimeError) as error:  # nobody there; another version of Ray or Python
            if address or not isinstance(error, ConnectionError):
                raise NotReachable(f"the Ray of RAY_ADDRESS={address or 'auto'}: {first_line(error)}") from error
    for name, value in (_UNWATCHED | ONE_ARENA).items():
        os.environ.setdefault(name, value)
    ray.init(address="local", include_dashboard=False, object_store_memory=_LOCAL_OBJECT_STORE_BYTES, **quiet)
    _own.add(str(ray.get_runtime_context().get_node_id()))
    return True


def _knock(address: str | None) -> None:
    """Raise `NotReachable` if nobody takes a connection at `host:port`: Ray would try for minutes, without a word."""
    host, separator, port = (address or "").rpartition(":")
    if separator and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
        except OSError as error:
            raise NotReachable(f"the Ray of RAY_ADDRESS={address}: {first_line(error)}") from error


@faults_of_ray()
def fleet(asked: Workers | None) -> Fleet:
    """The workers of an attempt, `asked` for by `--workers`, on the Ray that was joined or started."""
    return Fleet(asked, own=str(ray.get_runtime_context().get_node_id()) in _own)


@faults_of_ray()
def share(network: Prepared) -> "ray.ObjectRef[Prepared]":
    """Put the network where every worker fetches it once."""
    return ray.put(network)


def _feed(row: dict[str, bytes], config: WorkerConfig) -> Iterator[dict[str, str]]:
    """A chunk of spans, each as a row of its own; those that are to be cut as pieces, while others are labelled."""
    exit_without_destructors()
    spans = [Span.from_json(text) for text in json.loads(zlib.decompress(row["spans"]))]
    for piece in all_pieces(spans, read=config.read, part_images=config.part_images, output=config.output):
        yield {"span": piece.to_json()}


def _blocks(spans: Sequence[Span], config: WorkerConfig, workers: int) -> ray.data.Dataset:
    """The spans, each as a block of its own: the first ones at once, the others as workers need them, pieces at last.

    Those with secrets are never at once: what the driver puts lies in the memory of the raylet, which may write it to a disk.
    """
    first, fed = list[Span](), list[Span]()
    for span in spans:
        at_once = len(first) < BLOCKS and span.piece_bytes is None and not span.is_signed
        (first if at_once else fed).append(span)
    direct = ray.data.from_items([{"span": span.to_json()} for span in first], override_num_blocks=len(first)) if first else None
    feeds = min(_MAX_FEEDS, 1 + math.ceil(workers / _FED_WORKERS))
    chunks = _chunks(fed, feeds)
    if not chunks:
        assert direct is not None
        return direct
    later = ray.data.from_items(chunks, override_num_blocks=len(chunks)).flat_map(
        _feed,  # type: ignore[arg-type]
        fn_kwargs={"config": config},
        num_cpus=0,  # beside workers that have all
        compute=TaskPoolStrategy(size=min(feeds, len(chunks))),
    )
    return later if direct is None else direct.union(later)


def _chunks(spans: Sequence[Span], feeds: int) -> list[dict[str, bytes]]:
    """Spans that are whole, dealt out to the feeds in their order; those that are to be cut behind them, together."""
    whole = [span for span in spans if span.piece_bytes is None]
    rounds = [whole[first : first + feeds * CHUNK_SPANS] for first in range(0, len(whole), feeds * CHUNK_SPANS)]
    dealt = [some[feed::feeds] for some in rounds for feed in range(feeds)]
    dealt.append([span for span in spans if span.piece_bytes is not None])
    return [{"spans": zlib.compress(json.dumps([span.to_json() for span in chunk]).encode(), 1)} for chunk in dealt if chunk]


def label(
    spans: Sequence[Span], config: WorkerConfig, shared: "ray.ObjectRef[Prepared]", workers: Fleet
) -> Generator[PartReport]:
    """Reports as the parts are committed, in no order. Closed before its end, it ends the workers.

    Raises `RoundFailed` when Ray does, and if all workers are on nodes that refuse: plan again what is left. Raises
    `NoWorkerLeft` if no worker can start anywhere.
    """
    parallel = most_at_once(spans, config.part_images)
    pool = workers.pool(parallel)
    _configure(DataContext.get_current(), pool)
    member = workers.begin(pool.initial_size)
    try:
        with faults_of_ray():
            dataset = _blocks(spans, config, min(parallel, workers.may_be())).map_batches(
                Worker,
                batch_size=1,
                num_cpus=1,
                fn_constructor_args=(config, [shared], member),
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
    """The next batch, or None; whatever Ray makes of lost nodes and dead workers is a `RoundFailed`."""
    return next(batches, None)


def _configure(context: DataContext, pool: ActorPoolStrategy) -> None:
    context.target_max_block_size = 1  # a span or report is a block at once, and not when 128 MiB of them have gathered
    context.downstream_capacity_backpressure_ratio = _QUEUED  # counts only without the reservation of resources
    context.max_consecutive_actor_init_deaths = _INIT_DEATHS + pool.initial_size
    context.op_resource_reservation_enabled = pool.min_size < pool.max_size  # a pool that grows asks what there is
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # by then each worker has one span, and no more
    context.print_on_execution_start = False
    context.enable_progress_bars = False
    context.execution_options = ExecutionOptions(preserve_order=False)
