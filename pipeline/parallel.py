"""Many requests at once, over any number of items."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(items: Iterable[T], do: Callable[[T], R], threads: int) -> Iterator[R]:
    """The results of `do` for every item, in order, from `threads` threads; at most 2 * threads items are ahead of the caller."""
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
