"""A time limit that also holds inside C code: the process ends."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SOON_S = 1e-3  # a timer of 0 would be none


class Watchdog:
    """Ends this process if the work inside one `limit()` takes longer than `timeout_s`.

    The limit is a timer of the kernel. Its signal (SIGALRM) ends a process that does not handle it, also while a decoder holds
    the lock of Python. Setting the timer takes a microsecond. Several threads may be inside `limit()`: the timer is set for the
    thread that began first. Do not wait for storage inside. A process has only one such timer.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._begun: dict[object, float] = {}  # in the order of beginning

    @contextmanager
    def limit(self) -> Iterator[None]:
        """The body must not take longer than the time limit."""
        mine = object()
        with self._lock:
            self._begun[mine] = time.monotonic()
            if len(self._begun) == 1:
                self._set()
        try:
            yield
        finally:
            with self._lock:
                longest = next(iter(self._begun)) is mine
                del self._begun[mine]
                if longest:
                    self._set()

    def _set(self) -> None:
        """Set the timer to the time that is left to the thread that began first; switch it off if no thread is inside."""
        begun = next(iter(self._begun.values()), None)
        left = 0.0 if begun is None else max(_SOON_S, begun + self._timeout_s - time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, left)
