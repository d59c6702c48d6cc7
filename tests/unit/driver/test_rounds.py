"""Rounds go on until nothing remains or nothing gets on; who waits for too long is told so, whatever it waits for."""

import queue
import signal
import threading
import time
from collections.abc import Iterable

import pytest

from pipeline.driver.progress import Progress
from pipeline.driver.rounds import IDLE_ROUNDS, NoWorkerLeft, RoundFailed, Rounds, gives_up_after
from pipeline.errors import Incomplete, MaskfleetError, NotReachable


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


class _Fleet:
    refused = 0


class _Work:
    """Three items; each round does what `plan` says: so many of them, or an exception."""

    def __init__(self, plan: Iterable[int | Exception]) -> None:
        self.fatal: MaskfleetError | None = None
        self.done, self._now, self.patient = 0, 0, list[bool]()
        self._plan = iter(plan)

    def remains(self) -> bool:
        return self.done < 3

    def look_again(self) -> None:
        self.done = self._now

    def send(self, _fleet: object, *, patient: bool) -> str | None:
        self.patient.append(patient)
        what = next(self._plan)
        if isinstance(what, Exception):
            raise what
        self._now += what
        return None if what else "a span remains"


def _rounds(monkeypatch: pytest.MonkeyPatch, **given: object) -> Rounds:
    monkeypatch.setattr("pipeline.driver.rounds._PAUSE_S", 0.0)
    return Rounds(lambda: None, _Fleet, **given)  # type: ignore[arg-type]


def test_a_round_that_fails_is_repeated_and_progress_makes_up_for_idle_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    work = _Work([RoundFailed("a node is gone"), 1, 0, RoundFailed("again"), 1, 1])
    assert _rounds(monkeypatch).run(work) is None
    assert work.done == 3
    assert work.patient == [False, True, False, True, True, False]


def test_rounds_that_bring_nothing_end_with_the_last_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    work = _Work([1, 0, 0, RoundFailed("a node is gone")])
    assert _rounds(monkeypatch).run(work) == "a node is gone"
    assert work.patient == [False, False, True, True]
    assert IDLE_ROUNDS == 3


def test_a_round_in_which_nodes_refused_is_not_idle_unless_nothing_has_come_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(_Work):
        def send(self, fleet: object, *, patient: bool) -> str | None:
            fleet.refused += 1  # type: ignore[attr-defined]
            return super().send(fleet, patient=patient)

    work = Refusing([0, 0, 0, 0, 3])
    assert _rounds(monkeypatch).run(work) is None
    assert not any(work.patient)
    work = Refusing([0, 0, 0, 0, 3])
    assert _rounds(monkeypatch, stalled=lambda: True).run(work) == "a span remains"


def test_a_fatal_error_ends_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    error = Incomplete("no worker can start")
    work = _Work([NoWorkerLeft(error)])
    assert _rounds(monkeypatch).run(work) == "no worker can start"
    assert work.fatal is error


def test_without_a_ray_in_any_round_it_is_not_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 4, as of a new output: nothing could start. With 5 a scheduler would ask a head that is gone for ever."""

    def start() -> None:
        raise NotReachable("the Ray of RAY_ADDRESS=10.0.0.9:6379: ConnectionRefusedError")

    monkeypatch.setattr("pipeline.driver.rounds._PAUSE_S", 0.0)
    with pytest.raises(NotReachable, match=r"10\.0\.0\.9"):
        Rounds(start, _Fleet).run(_Work([]))  # type: ignore[arg-type]
