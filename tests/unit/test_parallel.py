"""Many at once, in order, and never far ahead."""

import threading
import time

import pytest

from pipeline.parallel import in_order


def test_results_come_in_order_and_items_are_taken_as_they_are_needed() -> None:
    taken, at_once, most = [], 0, 0
    lock = threading.Lock()

    def do(number: int) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.001 * (number % 3))
        with lock:
            at_once -= 1
        return number * number

    def items() -> "object":
        for number in range(100):
            taken.append(number)
            yield number

    found = []
    for number, result in enumerate(in_order(items(), do, 4)):  # type: ignore[arg-type]
        found.append(result)
        assert len(taken) <= number + 2 * 4 + 1
    assert found == [number * number for number in range(100)]
    assert 1 < most <= 4


def test_what_fails_ends_it_and_what_was_not_begun_never_is() -> None:
    begun = []

    def do(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(in_order(range(1000), do, 2))
    assert len(begun) < 12


def test_nothing_comes_of_nothing() -> None:
    assert list(in_order([], str, 4)) == []
