"""Look-ups, tens at a time and in order; names in braces."""

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from pipeline.errors import UsageError
from pipeline.listing.lookups import AT_ONCE, expand_braces, looked_up


def test_order_is_kept_and_no_more_are_asked_for_than_allowed() -> None:
    running, most, lock = [0], [0], threading.Lock()

    def ask(number: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.001 * (number % 5))
        with lock:
            running[0] -= 1
        return number * 2

    def look(number: int) -> Callable[[], int] | None:
        return partial(ask, number) if number % 3 else None

    found = [(number, None if future is None else future.result()) for number, future in looked_up(range(300), look)]
    assert found == [(number, number * 2 if number % 3 else None) for number in range(300)]
    assert 2 <= most[0] <= AT_ONCE


def test_a_long_list_is_not_taken_in_at_once() -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(100_000):
            taken += 1
            yield number

    def none(_: int) -> None:
        return None

    def soon(number: int) -> Callable[[], int]:
        return lambda: number

    for look in (none, soon):
        taken = 0
        assert next(looked_up(numbers(), look))[0] == 0
        assert taken <= AT_ONCE + 1


def test_names_in_braces() -> None:
    assert list(expand_braces("a{8..10}/b{00..01}.tar")) == [f"a{a}/b{b}.tar" for a in (8, 9, 10) for b in ("00", "01")]
    for wrong in ("{5..3}", "{0..9999999}{0..9}"):
        with pytest.raises(UsageError, match="braces"):
            expand_braces(wrong)
