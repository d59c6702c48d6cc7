"""The end of a run that does not get on: no image for so long, and the main thread is told, whatever it waits for."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.driver.progress import Progress
from pipeline.errors import Incomplete

_LOOKS_A_LIMIT = 20


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
