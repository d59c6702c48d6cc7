"""A time limit that also holds inside C code: the process ends itself."""

import faulthandler
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SLACK = 0.25  # of the limit: a timer is set anew only when it is older, as setting one starts a thread


class Watchdog:
    """Ends this process when what is done inside `limit()` takes longer than `timeout_s` (at most a quarter more).

    faulthandler's timer is a thread of C that needs no interpreter, so that it fires while a decoder holds the lock of Python.
    Several threads may be inside `limit()`; waiting for storage belongs outside.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._inside = 0
        self._set_at = float("-inf")
        self._nowhere = open(os.devnull, "w")  # noqa: SIM115 - the timer writes a traceback as long as the process lives

    @contextmanager
    def limit(self) -> Iterator[None]:
        """What the body does must not take longer."""
        with self._lock:
            self._inside += 1
            now = time.monotonic()
            if now - self._set_at > _SLACK * self._timeout_s:
                faulthandler.dump_traceback_later((1 + _SLACK) * self._timeout_s, exit=True, file=self._nowhere)
                self._set_at = now
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    faulthandler.cancel_dump_traceback_later()
                    self._set_at = float("-inf")
