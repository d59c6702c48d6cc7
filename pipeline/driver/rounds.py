"""Rounds: all that remains is sent through Ray once, and again, until nothing remains or nothing gets on."""

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

IDLE_ROUNDS = 3  # that commit nothing, before a run gives up
_PAUSE_S = 3.0
_LOOKS_A_LIMIT = 20

log = logging.getLogger(__name__)


class NoWorkerLeft(Exception):
    """No worker can start on any node. `error` says why, and decides the exit code."""

    def __init__(self, error: MaskfleetError) -> None:
        super().__init__(str(error))
        self.error = error


class RoundFailed(Exception):
    """A fault of Ray or of the cluster ended a round; what remains can be sent again."""


class Work(Protocol):
    """What rounds are made of. fatal: what ends them, whatever remains. done: how much is done, whoever did it."""

    fatal: MaskfleetError | None

    @property
    def done(self) -> int:
        """As `look_again` saw it."""
        ...

    def remains(self) -> bool:
        """Is there anything to send?"""
        ...

    def look_again(self) -> None:
        """See what is done, after each round."""
        ...

    def send(self, fleet: "Fleet", *, patient: bool) -> str | None:
        """Send what remains to the workers -> why it did not come back whole, or None.

        patient: the round before got nowhere. Raises `RoundFailed` and `NoWorkerLeft`.
        """
        ...


class Rounds:
    """Of one attempt.

    start: joins Ray, or starts it, before each round; raises `NotReachable`. fleet: the workers, asked for once.
    stalled: has nothing come for too long?
    """

    def __init__(
        self, start: Callable[[], object], fleet: Callable[[], "Fleet"], stalled: Callable[[], bool] = lambda: False, *,
        debug: bool = False,
    ) -> None:  # fmt: skip
        self._start, self._make_fleet, self._stalled, self._debug = start, fleet, stalled, debug
        self._fleet: Fleet | None = None

    def run(self, work: Work) -> str | None:
        """Rounds until nothing remains -> why they ended before that, or None. Raises `NotReachable` if none found a Ray."""
        idle, reason = 0, None
        while work.remains():
            refused, before = self._refused, work.done
            reason = self._round(work, patient=idle > 0)
            stop_if_asked()
            work.look_again()
            if work.done > before:
                idle = 0
            elif self._refused == refused or self._stalled():
                idle += 1  # nodes that refuse are known now, and the next round keeps off them
            if idle >= IDLE_ROUNDS and self._fleet is None:
                raise NotReachable(reason or "no Ray")
            if idle >= IDLE_ROUNDS or work.fatal is not None:
                return reason or "rounds that commit nothing"
            if idle:
                time.sleep(_PAUSE_S * idle)
        return None

    @property
    def _refused(self) -> int:
        """Nodes on which no worker can start, as far as it is known."""
        return 0 if self._fleet is None else self._fleet.refused

    def _round(self, work: Work, *, patient: bool) -> str | None:
        """Faults of Ray end the round, not the run."""
        try:
            self._start()
        except NotReachable as error:  # a head that is started again is back soon
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
    """Not an `Exception`, so that nothing on the way takes it for a fault of Ray."""


@contextmanager
def gives_up_after(minutes: float, progress: Progress) -> Iterator[None]:
    """Raise `Incomplete`, with where it stood, in the body when no worker has reported images for so many minutes.

    A part of many images takes longer than that: workers report it while they have it in hand. By SIGALRM, as the body
    waits inside Ray; so only in the main thread (elsewhere nothing is watched).
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
                signal.pthread_kill(main, signal.SIGALRM)  # again at each look: Python drops what is raised in a destructor

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
