"""Memory of driver and workers while a job runs: unique set size (USS), as RSS would count Ray's object store too."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil

_MIB = 1 << 20
_POLL_S = 0.05


def uss(pid: int) -> float:
    """MiB of a process of its own; 0 where it is gone."""
    try:
        return float(psutil.Process(pid).memory_full_info().uss) / _MIB
    except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, OSError):
        return 0.0


def workers_of(pid: int) -> list[int]:
    """The processes below this driver that label; not a child of one, which bears its name until it is what it starts."""
    parents: dict[int, int] = {}
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(pid).children(recursive=True):
            if "MapWorker" in "".join(_words(each)):
                with suppress(psutil.NoSuchProcess):  # such a child lives a tenth of a second
                    parents[each.pid] = each.ppid()
    return [each for each, parent in parents.items() if parent not in parents]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, OSError):
        return []


def watched(process: "subprocess.Popen[bytes]", *, every_s: float) -> Iterator[float]:
    """`time.time()` every so many seconds, until the process ends."""
    due = time.monotonic()
    while process.poll() is None:
        if time.monotonic() >= due:
            due = time.monotonic() + every_s
            yield time.time()
        time.sleep(_POLL_S)
