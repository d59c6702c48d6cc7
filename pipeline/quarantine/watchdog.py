"""A time limit that also holds inside C code: the process ends."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SOON_S = 1e-3  # a timer of 0 would be none


class Watchdog:
    """Ends this process when what is done inside one `limit()` takes longer than `timeout_s`.

    A timer of the kernel, whose signal (SIGALRM) ends a process that does not handle it: it fires while a decoder holds
    the lock of Python, and setting it takes a microsecond. Several threads may be inside `limit()`; the timer is that of
    the one that has been there longest. Waiting for storage belongs outside. A process has one such timer.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._begun: dict[object, float] = {}  # in the order of beginning

    @contextmanager
    def limit(self) -> Iterator[None]:
        """What the body does must not take longer."""
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
        """The timer to what is left to the one that has been inside longest; none where nobody is."""
        begun = next(iter(self._begun.values()), None)
        left = 0.0 if begun is None else max(_SOON_S, begun + self._timeout_s - time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, left)
