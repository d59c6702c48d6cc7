"""Join the Ray that is there, or start one here. Nothing is printed unless this fails."""

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
_KNOCK_S = 20.0  # the head of a cluster may take so long to accept a connection
_own: set[str] = set()  # for each Ray that this process started, the driver's node
_UNWATCHED = {  # off in a Ray that serves only this run: nobody asks for metrics or tasks
    "RAY_enable_metrics_collection": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",
    "RAY_task_events_report_interval_ms": "0",
}


def start_ray(*, debug: bool) -> bool:
    """Join the cluster that `RAY_ADDRESS` or this machine names, else start Ray here (`RAY_ADDRESS=local`: always here).

    Returns True if this call started Ray: all workers then run on this machine. Raises `NotReachable` if no Ray answers at
    `RAY_ADDRESS`, or if its version differs.
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
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else each actor pool logs an error about its arguments
        with _held_stderr():  # Ray's C++ code prints there that it has read the level above
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
    """Hold back what C++ code writes to stderr. It is shown only if the body raises."""
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
        except (ConnectionError, RuntimeError) as error:  # no Ray there; a Ray with another version of Ray or Python
            if address or not isinstance(error, ConnectionError):
                raise NotReachable(f"the Ray of RAY_ADDRESS={address or 'auto'}: {first_line(error)}") from error
    for name, value in (_UNWATCHED | ONE_ARENA).items():
        os.environ.setdefault(name, value)
    ray.init(address="local", include_dashboard=False, object_store_memory=_LOCAL_OBJECT_STORE_BYTES, **quiet)
    _own.add(str(ray.get_runtime_context().get_node_id()))
    return True


def _knock(address: str | None) -> None:
    """Raise `NotReachable` if no process accepts a connection at `host:port`: Ray would try for minutes and print nothing."""
    host, separator, port = (address or "").rpartition(":")
    if separator and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
        except OSError as error:
            raise NotReachable(f"the Ray of RAY_ADDRESS={address}: {first_line(error)}") from error


def is_own() -> bool:
    """Did this process start the Ray that it is connected to?"""
    return str(ray.get_runtime_context().get_node_id()) in _own
