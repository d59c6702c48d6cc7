"""Many requests at once, over any number of items."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(items: Iterable[T], do: Callable[[T], R], threads: int) -> Iterator[R]:
    """`do` of every item, in order, in threads that are at most so many items ahead of who takes the results."""
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, "in-order") as pool:
        try:
            for item in items:
                running.append(pool.submit(do, item))
                if len(running) > 2 * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
