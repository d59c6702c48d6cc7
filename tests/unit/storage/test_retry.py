"""What is asked again, how often, and what is final at once."""

import time

import pytest

from pipeline.errors import Damaged, ObjectChanged, ObjectDenied, ObjectMissing, StorageError, StorageRefused
from pipeline.storage import retry
from pipeline.storage.retry import is_transient, with_retries


class _Flaky:
    def __init__(self, failures: list[Exception]) -> None:
        self.failures, self.calls = failures, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.0)


def test_transient_errors_are_tried_again() -> None:
    call = _Flaky([StorageError("503"), StorageError("reset")])
    assert with_retries(call) == "answer"
    assert call.calls == 3


def test_the_last_error_is_raised_after_the_last_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 4)
    call = _Flaky([StorageError(str(number)) for number in range(10)])
    with pytest.raises(StorageError, match=r"^3$"):
        with_retries(call)
    assert call.calls == 4


@pytest.mark.parametrize(
    "error",
    [
        ObjectMissing("gone"),
        ObjectDenied("no"),
        ObjectChanged("other"),
        StorageRefused("key"),
        Damaged("bits"),
        ValueError("bug"),
    ],
)
def test_final_errors_are_raised_at_once(error: Exception) -> None:
    call = _Flaky([error])
    with pytest.raises(type(error)):
        with_retries(call)
    assert call.calls == 1
    assert not is_transient(error)


def test_retries_end_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "TOTAL_S", 0.05)
    monkeypatch.setattr(retry, "ATTEMPTS", 10_000)

    def slow() -> None:
        time.sleep(0.02)
        raise StorageError("slow")

    started = time.monotonic()
    with pytest.raises(StorageError, match="slow"):
        with_retries(slow)
    assert time.monotonic() - started < 5


def test_the_defaults_bound_the_wait() -> None:
    assert retry.ATTEMPTS >= 5
    assert retry.TOTAL_S <= 300


def test_waits_are_anything_up_to_a_bound_that_doubles_to_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full jitter: workers that were throttled together must not ask again together."""
    waits: list[float] = []
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 3.0)
    monkeypatch.setattr(retry, "ATTEMPTS", 6)
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    for _ in range(300):
        with pytest.raises(StorageError):
            with_retries(_Flaky([StorageError("503")] * 6))
    for retries_before, bound in enumerate((0.5, 1.0, 2.0, 3.0, 3.0)):
        at_this = waits[retries_before::5]
        assert len(at_this) == 300
        assert 0 <= min(at_this) < 0.1 * bound
        assert 0.9 * bound < max(at_this) <= bound
