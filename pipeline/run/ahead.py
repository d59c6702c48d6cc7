"""Read ahead in a thread: an iterator runs there, a bounded queue brings its items here."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Raised:
    error: BaseException


class ReadAhead(Iterator[T]):
    """Items of `source` in order, at most `ahead` of them waiting; what it raises is raised here.

    `close()` ends the thread; it is called when the items are exhausted, too.
    """

    def __init__(self, source: Iterator[T], ahead: int) -> None:
        self._items: queue.Queue[T | _Raised | None] = queue.Queue(ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(source,), name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self, source: Iterator[T]) -> None:
        try:
            for item in source:
                if not self._put(item):
                    break
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - handed over, whatever it is
            self._put(_Raised(error))
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def _put(self, item: "T | _Raised | None") -> bool:
        """Wait for room; False: nobody wants any more."""
        if not self._closed.is_set():
            self._items.put(item)
        return not self._closed.is_set()

    def __next__(self) -> T:
        if self._closed.is_set():
            raise StopIteration
        item = self._items.get()
        if item is None:
            self.close()
            raise StopIteration
        if isinstance(item, _Raised):
            self.close()
            raise item.error
        return item

    def close(self) -> None:
        """Stop reading and wait for the thread: no longer than it takes over the item that it reads."""
        self._closed.set()
        with suppress(queue.Empty):
            while True:  # it may wait for room
                self._items.get_nowait()
        self._thread.join()
