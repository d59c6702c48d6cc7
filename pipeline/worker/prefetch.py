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
    """Items of `source` in order. An error in `source` is raised by `next`.

    At most `ahead` items wait, with at most `max_bytes` together (`size_of` gives the bytes of an item); a larger item waits
    alone. `close()` ends the thread. It is also called after the last item.
    """

    def __init__(self, source: Iterator[T], ahead: int, *, max_bytes: int = 0, size_of: Callable[[T], int] = lambda _: 0) -> None:
        self._ahead, self._most_bytes, self._size_of = ahead, max_bytes, size_of
        self._items: deque[tuple[T | _Raised | None, int]] = deque()
        self._bytes = 0  # of all items that wait
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(source,), name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self, source: Iterator[T]) -> None:
        try:
            for item in source:
                if not self._put(item, self._size_of(item)):
                    break
                del item  # else memory holds this item beside the next one
            self._put(None, 0)
        except BaseException as error:  # noqa: BLE001 - any error is handed over to the other thread
            self._put(_Raised(error), 0)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def _put(self, item: "T | _Raised | None", size: int) -> bool:
        """Wait for room and add an item; False if the reader has closed this iterator."""
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
        """Stop reading, and wait until the thread has finished the item that it reads now."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
        self._thread.join()
