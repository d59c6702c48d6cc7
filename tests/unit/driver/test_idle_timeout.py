"""A run that does not get on is told so, whatever its main thread waits for."""

import queue
import signal
import threading
import time

import pytest

from pipeline.driver.idle_timeout import gives_up_after
from pipeline.driver.progress import Progress
from pipeline.errors import Incomplete


def test_a_wait_without_parts_is_ended() -> None:
    progress = Progress(images=12, parts=3, skipped=4)
    started = time.monotonic()
    with (
        pytest.raises(Incomplete, match=r"0\.01 minutes .* stood at 3 parts, the run at 16 images"),
        gives_up_after(0.01, progress),
    ):
        queue.Queue[int]().get()
    assert 0.6 <= time.monotonic() - started < 20


def test_workers_that_report_images_keep_it_going() -> None:
    progress = Progress()
    with gives_up_after(0.01, progress):
        for _ in range(10):
            time.sleep(0.1)
            progress.last_sign = time.monotonic()


def test_what_came_before_it_does_not_count() -> None:
    """Listing and planning may take as long as they take."""
    progress = Progress(last_sign=time.monotonic() - 3600)
    with gives_up_after(0.01, progress):
        time.sleep(0.2)


def test_the_handler_that_was_there_is_put_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with gives_up_after(1, Progress()):
        assert signal.getsignal(signal.SIGALRM) is not before
    assert signal.getsignal(signal.SIGALRM) is before
    assert not [thread for thread in threading.enumerate() if thread.name == "stall"]


def test_outside_the_main_thread_nothing_is_watched() -> None:
    seen: list[str] = []

    def body() -> None:
        with gives_up_after(0.001, Progress()):
            time.sleep(0.3)
            seen.append("done")

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == ["done"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_that_a_destructor_swallows_comes_again() -> None:
    class Dropped:
        def __del__(self) -> None:
            time.sleep(1)

    def body() -> None:
        dropped = Dropped()
        del dropped
        time.sleep(20)

    began = time.monotonic()
    with pytest.raises(Incomplete), gives_up_after(0.01, Progress()):
        body()
    assert time.monotonic() - began < 15


def test_an_alarm_after_the_end_is_none() -> None:
    with gives_up_after(1, Progress()):
        late = signal.getsignal(signal.SIGALRM)
    assert callable(late)
    late(signal.SIGALRM, None)
