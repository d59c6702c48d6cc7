"""When to ask a store again, and how long to wait."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from pipeline.errors import ObjectChanged, ObjectDenied, ObjectMissing, StorageError, StorageRefused

T = TypeVar("T")

ATTEMPTS = 8
TOTAL_S = 120.0
LONGEST_WAIT_S = 20.0

_FINAL = (ObjectMissing, ObjectDenied, ObjectChanged, StorageRefused)


def is_transient(error: BaseException) -> bool:
    """Throttling, 5xx, time-outs, resets and short reads: worth another try."""
    return isinstance(error, StorageError) and not isinstance(error, _FINAL)


def with_retries(call: Callable[[], T]) -> T:
    """`call()`, again with full jitter while it raises a transient `StorageError`."""
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT_S),
        stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(TOTAL_S),
        reraise=True,
    )
    return retrying(call)
