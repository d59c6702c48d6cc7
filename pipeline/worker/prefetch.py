"""Read ahead in a thread: an iterator runs there, a bounded queue brings its items here."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Raised:
    error: BaseException


class ReadAhead(Iterator[T]):
    """Items of `source` in order; what it raises is raised here.

    At most `ahead` items wait, and of `most_bytes` as `size_of` says; one that has more waits alone.
    `close()` ends the thread; it is called when the items are exhausted, too.
    """

    def __init__(self, source: Iterator[T], ahead: int, *, max_bytes: int = 0, size_of: Callable[[T], int] = lambda _: 0) -> None:
        self._ahead, self._most_bytes, self._size_of = ahead, max_bytes, size_of
        self._items: deque[tuple[T | _Raised | None, int]] = deque()
        self._bytes = 0  # of those
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(source,), name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self, source: Iterator[T]) -> None:
        try:
            for item in source:
                if not self._put(item, self._size_of(item)):
                    break
                del item  # else it lies in memory beside the next one
            self._put(None, 0)
        except BaseException as error:  # noqa: BLE001 - handed over, whatever it is
            self._put(_Raised(error), 0)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def _put(self, item: "T | _Raised | None", size: int) -> bool:
        """Wait for room; False: nobody wants any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(size))
            if not self._closed:
                self._items.append((item, size))
                self._bytes += size
                self._changed.notify()
            return not self._closed

    def _has_room(self, size: int) -> bool:
        return not self._items or (len(self._items) < self._ahead and self._bytes + size <= self._most_bytes)

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items)
            if self._closed:
                raise StopIteration
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify()
        if item is None:
            self.close()
            raise StopIteration
        if isinstance(item, _Raised):
            self.close()
            raise item.error
        return item

    def close(self) -> None:
        """Stop reading and wait for the thread: no longer than it takes over the item that it reads."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
        self._thread.join()
