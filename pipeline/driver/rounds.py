"""Rounds: all that remains is sent through Ray once, then again, until nothing remains or no round makes progress."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from pipeline.driver.progress import Progress
from pipeline.errors import Incomplete, MaskfleetError, NotReachable
from pipeline.stopped import stop_if_asked

if TYPE_CHECKING:
    from pipeline.driver.fleet import Fleet

IDLE_ROUNDS = 3  # after so many rounds that commit nothing a run gives up
_PAUSE_S = 3.0
_LOOKS_A_LIMIT = 20

log = logging.getLogger(__name__)


class NoWorkerLeft(Exception):
    """No worker can start on any node. `error` says why, and decides the exit code."""

    def __init__(self, error: MaskfleetError) -> None:
        super().__init__(str(error))
        self.error = error


class RoundFailed(Exception):
    """A fault of Ray or of the cluster ended a round. The remaining work can be sent again."""


class Work(Protocol):
    """What rounds send. fatal: an error that ends the rounds, whatever remains. done: how much is done, by any attempt."""

    fatal: MaskfleetError | None

    @property
    def done(self) -> int:
        """How much was done at the last `look_again`."""
        ...

    def remains(self) -> bool:
        """Does anything remain to be sent?"""
        ...

    def look_again(self) -> None:
        """Find out what is done. Called after each round."""
        ...

    def send(self, fleet: "Fleet", *, patient: bool) -> str | None:
        """Send what remains to the workers -> why something still remains, or None.

        patient: did the round before make no progress? Raises `RoundFailed` and `NoWorkerLeft`.
        """
        ...


class Rounds:
    """The rounds of one attempt.

    start: joins or starts Ray before each round; raises `NotReachable`. fleet: makes the workers; called once. stalled: has
    no part been committed for too long?
    """

    def __init__(
        self, start: Callable[[], object], fleet: Callable[[], "Fleet"], stalled: Callable[[], bool] = lambda: False, *,
        debug: bool = False,
    ) -> None:  # fmt: skip
        self._start, self._make_fleet, self._stalled, self._debug = start, fleet, stalled, debug
        self._fleet: Fleet | None = None

    def run(self, work: Work) -> str | None:
        """Run rounds until nothing remains -> None, or why they ended earlier. Raises `NotReachable` if no round found a Ray."""
        idle, reason = 0, None
        while work.remains():
            refused, before = self._refused, work.done
            reason = self._round(work, patient=idle > 0)
            stop_if_asked()
            work.look_again()
            if work.done > before:
                idle = 0
            elif self._refused == refused or self._stalled():
                idle += 1  # if new nodes refused, the round is not idle: the next one keeps off them
            if idle >= IDLE_ROUNDS and self._fleet is None:
                raise NotReachable(reason or "no Ray")
            if idle >= IDLE_ROUNDS or work.fatal is not None:
                return reason or "rounds that commit nothing"
            if idle:
                time.sleep(_PAUSE_S * idle)
        return None

    @property
    def _refused(self) -> int:
        """How many nodes are known on which no worker can start."""
        return 0 if self._fleet is None else self._fleet.refused

    def _round(self, work: Work, *, patient: bool) -> str | None:
        """Run one round -> why something remains, or None. Faults of Ray end the round, not the run."""
        try:
            self._start()
        except NotReachable as error:  # if the head is being restarted, it is back soon
            return str(error)
        try:
            fleet = self._fleet = self._fleet or self._make_fleet()
            return work.send(fleet, patient=patient)
        except NoWorkerLeft as nobody:
            work.fatal = work.fatal or nobody.error
            return str(nobody)
        except RoundFailed as error:
            log.warning("a round failed, what remains is planned again: %s", error)
            if self._debug:
                log.exception("the round")
            return str(error)


class _Stalled(BaseException):
    """The run has stalled. Not an `Exception`, so that no code on the way takes it for a fault of Ray."""


@contextmanager
def gives_up_after(minutes: float, progress: Progress) -> Iterator[None]:
    """Raise `Incomplete` in the body if no worker has reported images for so many minutes. The error says how far the run came.

    Workers also report a part in hand, so a long part is no stall. The body waits inside Ray, so it is interrupted by SIGALRM;
    this works only in the main thread. In other threads nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over, main, limit_s = threading.Event(), threading.main_thread().ident, 60 * minutes
    assert main is not None
    began = time.monotonic()

    def watch() -> None:
        while not over.wait(limit_s / _LOOKS_A_LIMIT):
            if time.monotonic() - max(began, progress.last_sign) > limit_s:
                signal.pthread_kill(main, signal.SIGALRM)  # again at each look: Python drops errors raised in a destructor

    def stop(_number: int, _frame: object) -> None:
        if not over.is_set():
            raise _Stalled

    before = signal.signal(signal.SIGALRM, stop)
    thread = threading.Thread(target=watch, name="stall", daemon=True)
    thread.start()
    try:
        try:
            yield
        finally:
            over.set()
    except _Stalled:
        raise Incomplete(
            f"no image was labelled for {minutes:g} minutes (--idle-minutes); this attempt stood at {progress.parts:,} parts, "
            f"the run at {progress.done:,} images: run the same command again"
        ) from None
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGALRM, before)
