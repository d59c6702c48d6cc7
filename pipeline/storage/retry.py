"""When to ask a store again, how long to wait, and a count of these retries."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from pipeline.errors import (
    HostUnreachable,
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    StorageError,
    StorageRefused,
)

T = TypeVar("T")

ATTEMPTS = 8
TOTAL_S = 120.0
UNREACHABLE_ATTEMPTS = 3  # few, because a list of a million links holds thousands of dead hosts
LONGEST_WAIT_S = 20.0

_FINAL = (ObjectMissing, ObjectDenied, ObjectTooLarge, ObjectChanged, StorageRefused)


def is_transient(error: BaseException) -> bool:
    """Is it worth another try? Throttling, 5xx, time-outs, resets and short reads are."""
    return isinstance(error, StorageError) and not isinstance(error, _FINAL)


_retries: Counter[str] = Counter()  # retries of this process, by error code
_counting = threading.Lock()


def retries() -> Counter[str]:
    """How often this process has asked again so far, by the store's error code."""
    return _retries.copy()


def _count(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    with _counting:
        _retries[getattr(error, "code", "") or type(error).__name__] += 1


def _enough(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome is not None else None
    attempts = min(ATTEMPTS, UNREACHABLE_ATTEMPTS) if isinstance(error, HostUnreachable) else ATTEMPTS
    return state.attempt_number >= attempts or stop_after_delay(TOTAL_S)(state)


def with_retries(call: Callable[[], T]) -> T:
    """The result of `call()`. Calls it again, with full jitter, while it raises a transient `StorageError`."""
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT_S),
        stop=_enough,
        before_sleep=_count,
        reraise=True,
    )
    return retrying(call)
