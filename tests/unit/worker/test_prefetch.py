"""Reading ahead in a thread: order, bounds, errors, and an end of the thread in every case."""

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.worker.prefetch import ReadAhead


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


class _Source(Iterator[int]):
    """Counts what is taken, and knows whether it was closed."""

    def __init__(self, stop: int) -> None:
        self.stop, self.taken, self.closed = stop, 0, 0

    def __next__(self) -> int:
        if self.taken == self.stop:
            raise StopIteration
        self.taken += 1
        return self.taken - 1

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("ahead", [1, 4, 100])
def test_all_items_in_order(ahead: int) -> None:
    source = _Source(50)
    items = ReadAhead(source, ahead)
    assert list(items) == list(range(50))
    assert source.closed == 1
    assert next(items, "end") == "end"
    assert not _threads()


def test_nothing() -> None:
    assert list(ReadAhead(iter(()), 2)) == []


def test_none_is_an_item_too_where_it_is_wrapped() -> None:
    assert list(ReadAhead(iter([(None,), ()]), 2)) == [(None,), ()]


def test_at_most_as_many_wait_as_asked_for() -> None:
    source = _Source(1000)
    items = ReadAhead(source, 3)
    time.sleep(0.05)
    assert source.taken <= 4  # three wait, one is in hand
    next(items)
    time.sleep(0.05)
    assert source.taken <= 5
    items.close()


def test_it_reads_while_nobody_asks() -> None:
    source = _Source(10)
    items = ReadAhead(source, 3)
    deadline = time.monotonic() + 10
    while source.taken < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert source.taken == 4
    items.close()


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_errors_are_raised_here_after_the_items_before_them(error: BaseException) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    items = ReadAhead(source(), 4)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(type(error)):
        next(items)
    assert next(items, "end") == "end"
    assert not _threads()


def test_close_ends_a_thread_that_waits_and_closes_its_generator() -> None:
    ended = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            ended.set()

    items = ReadAhead(source(), 2)
    next(items)
    items.close()
    assert ended.is_set()
    assert not _threads()
    assert next(items, "end") == "end"
    items.close()  # twice is fine


def test_close_does_not_wait_for_room() -> None:
    began = time.monotonic()
    for _ in range(20):
        items = ReadAhead(iter(range(1000)), 1)
        next(items)
        items.close()
    assert time.monotonic() - began < 1  # it was a tenth of a second each


def test_an_error_after_close_is_nobodys() -> None:
    go = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        go.wait(10)
        raise ValueError("too late")

    items = ReadAhead(source(), 2)
    next(items)
    threading.Timer(0.02, go.set).start()
    items.close()
    assert not _threads()


def _waiting(sizes: list[int], max_bytes: int) -> int:
    """How many of these are taken from their source while nobody asks."""
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for size in sizes:
            taken += 1
            yield size

    items = ReadAhead(source(), 4, max_bytes=max_bytes, size_of=lambda size: size)
    time.sleep(0.05)
    found, before = taken, list(items)
    assert before == sizes
    return found


def test_no_more_bytes_wait_than_asked_for() -> None:
    """One more is in hand, and waits to be put."""
    assert _waiting([10] * 9, 100) == 5  # four of them, as without bytes
    assert _waiting([50] * 9, 100) == 3
    assert _waiting([100, 1, 1], 100) == 2
    assert _waiting([1, 100, 1], 100) == 2


def test_an_item_of_more_bytes_than_may_wait_waits_alone() -> None:
    assert _waiting([1000, 1, 1000, 1], 100) == 2
    assert _waiting([1, 1000, 1], 100) == 2
