"""Read ahead in a thread: an iterator runs there, a bounded queue brings its items here."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
_POLL_S = 0.1


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
        while not self._closed.is_set():
            try:
                self._items.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

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
        """Stop reading and wait for the thread."""
        self._closed.set()
        self._thread.join()
