"""A walk from header to header of a tar, in as few requests as its members allow."""

import io
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.shards.range_file import CHUNK_BYTES
from pipeline.storage import ObjectInfo, Store

HEADER_BYTES = 16 << 10  # a request for one header, and for those of small members behind it
FAR_BYTES = 1 << 20  # from header to header; a stream brings as much in half the time of a request
_REMEMBERED = 8  # distances between headers, about


class HeaderFile(io.RawIOBase):
    """The bytes of a tar for whoever seeks from header to header, forwards.

    Where headers are near each other, whole chunks are fetched, the next one while this one is used: of members of 10 kB one
    request brings 800 headers. Where they are far from each other, each costs a small request, and what lies between is not
    read. streams: False where a request costs next to nothing, as on a local disk: then always so.
    """

    def __init__(self, store: Store, info: ObjectInfo, *, streams: bool = True) -> None:
        assert info.size is not None
        self._store, self._info, self._size, self._streams = store, info, info.size, streams
        self._position = self._start = 0
        self._chunk = b""
        self._header: int | None = None
        self._distance: float | None = None  # from header to header, of late
        self._next: tuple[int, Future[bytes]] | None = None
        self._threads = ThreadPoolExecutor(1, "headers-ahead") if streams else None

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
        """Go to the next header; nothing is fetched before the next read."""
        assert whence == io.SEEK_SET
        if self._header is not None and offset > self._header:
            distance = float(offset - self._header)
            known = self._distance
            self._distance = distance if known is None else known + (distance - known) / _REMEMBERED
        self._header = self._position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; fewer only at the end of the object. Raises `StorageError`."""
        end = self._size if size < 0 else min(self._position + size, self._size)
        pieces: list[bytes] = []
        while self._position < end:
            inside = self._position - self._start
            if not 0 <= inside < len(self._chunk):
                self._fetch(end - self._position)
                inside = self._position - self._start
            piece = self._chunk[inside : inside + end - self._position]
            pieces.append(piece)
            self._position += len(piece)
        return b"".join(pieces)

    @property
    def _near(self) -> bool:
        return self._streams and self._distance is not None and self._distance <= FAR_BYTES

    def _fetch(self, wanted: int) -> None:
        """The chunk at the position, `wanted` bytes of it at least if a chunk holds as many."""
        position, ahead = self._position, self._next
        self._chunk, self._next = b"", None
        if ahead is not None and ahead[0] <= position < ahead[0] + CHUNK_BYTES:
            self._start, self._chunk = ahead[0], ahead[1].result()
        else:
            if ahead is not None:
                ahead[1].cancel()
            length = CHUNK_BYTES if self._near else min(CHUNK_BYTES, max(HEADER_BYTES, wanted))
            self._start, self._chunk = position, self._get(position, length)
        after = self._start + len(self._chunk)
        if self._near and self._threads is not None and after < self._size:
            self._next = after, self._threads.submit(self._get, after, CHUNK_BYTES)

    def _get(self, start: int, length: int) -> bytes:
        return self._store.read(self._info.uri, start, min(length, self._size - start), self._info.version)

    def close(self) -> None:
        """Stop the thread that fetches ahead."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        super().close()
