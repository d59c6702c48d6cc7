"""Join the Ray that is there, or start one here, without a word unless it fails."""

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.driver.fleet import first_line
from pipeline.errors import NotReachable
from pipeline.memory import ONE_ARENA

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


def is_own() -> bool:
    """Was the Ray that this process has joined started by it?"""
    return str(ray.get_runtime_context().get_node_id()) in _own
