"""A seekable file over range reads: chunks of 8 MiB, the next one fetched while this one is used."""

import io
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.errors import StorageError
from pipeline.storage.base import ObjectInfo, Store

CHUNK_BYTES = 8 << 20


class RangeFile(io.RawIOBase):
    """The bytes of one object. Holds at most two chunks, whatever the object's size.

    Sequential reads fetch the next chunk ahead; a seek far away drops the chunks. failure: the last storage error, for callers
    whose C++ code in between reports only errors of its own.
    """

    failure: StorageError | None = None

    def __init__(self, store: Store, info: ObjectInfo, chunk_bytes: int = CHUNK_BYTES, *, ahead: bool = True) -> None:
        assert info.size is not None
        self._store, self._info, self._size, self._chunk_bytes = store, info, info.size, chunk_bytes
        self._position = 0
        self._start, self._chunk = 0, b""
        self._next: tuple[int, Future[bytes]] | None = None
        self._threads = ThreadPoolExecutor(1, "read-ahead") if ahead else None

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is fetched before the next read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; fewer only at the end of the object. Raises `StorageError`, also for a short answer."""
        end = self._size if size < 0 else min(self._position + size, self._size)
        pieces: list[bytes] = []
        while self._position < end:
            inside = self._position - self._start
            if not 0 <= inside < len(self._chunk):
                self._fetch(self._position)
                inside = self._position - self._start
            piece = self._chunk[inside : inside + end - self._position]
            pieces.append(piece)
            self._position += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """For `io.BufferedReader`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _get(self, start: int) -> bytes:
        length = min(self._chunk_bytes, self._size - start)
        try:
            return self._store.read(self._info.uri, start, length, self._info.version)
        except StorageError as error:
            self.failure = error
            raise

    def _fetch(self, position: int) -> None:
        sequential = position == self._start + len(self._chunk)
        self._chunk = b""
        if self._next is not None and self._next[0] == position:
            self._start, self._chunk = position, self._next[1].result()
        else:
            if self._next is not None:
                self._next[1].cancel()
            self._start, self._chunk = position, self._get(position)
        after = self._start + len(self._chunk)
        self._next = None
        if sequential and self._threads is not None and after < self._size:
            self._next = after, self._threads.submit(self._get, after)

    def close(self) -> None:
        """Stop the read-ahead thread."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        super().close()
