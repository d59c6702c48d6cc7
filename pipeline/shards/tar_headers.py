"""Headers of tars: a walk from one to the next in few requests, and what Python's `tarfile` may read of one member.

Any number of headers may extend the one behind them, and `tarfile` takes each as it is: a size below zero means the rest of the
tar, digits cost their square, a map of holes becomes a list of numbers, and global records hold until the tar ends.
"""

import io
import re
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor
from tarfile import InvalidHeaderError  # type: ignore[attr-defined]

from pipeline.shards.range_file import CHUNK_BYTES, RangeFile
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


MAX_HEADER_BYTES = 1 << 20  # of the pax and GNU long-name headers of one member: names of 4 kB fit, a bomb does not
MAX_EXTENSIONS = 16  # of one member; tools write four at most, and Python's stack ends at some 300
MAX_DIGITS = 512  # in a row: tarfile's search for `hdrcharset` takes 0.6 s for 1 MiB of these, half an hour for digits alone

_BLOCK = tarfile.BLOCKSIZE
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_EXTENSIONS = (*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_DIGITS = re.compile(rb"(?<!\d)\d{%d}" % (MAX_DIGITS + 1))
_RECORD = re.compile(rb"(\d+) ([^=]+)=")  # as tarfile takes them
_GOES_ON = 504  # in a block of an old GNU sparse map: whether another one follows


class MemberHeaders:
    """The file from which `tarfile.TarInfo.fromtarfile` reads the headers of one member; `seek` goes to its first.

    It reads one header, or one that extends it, the body of that, the next header, and so on; behind the last header only the
    map of a sparse member, of which it is told that it is empty.
    """

    def __init__(self, file: RangeFile | HeaderFile) -> None:
        self._file = file
        self._type: bytes | None = None  # of the header that was read last; None: a header comes next
        self._extensions = self._bytes = 0  # of this member

    def tell(self) -> int:
        """The position in bytes."""
        return self._file.tell()

    def seek(self, offset: int) -> int:
        """Go to where the headers of a member begin."""
        self._type, self._extensions, self._bytes = None, 0, 0
        return self._file.seek(offset)

    def read(self, size: int) -> bytes:
        """What comes next. Raises `tarfile.InvalidHeaderError` and `StorageError`."""
        if self._type is None:
            header = self._file.read(size)
            self._type = header[156:157]
            return header
        if self._type in _EXTENSIONS:
            kind, self._type = self._type, None
            return self._body(kind, size)
        if self._type == tarfile.GNUTYPE_SPARSE:
            self._pass_map()
            return bytes(_BLOCK)  # no holes, and no block behind this one
        return b"0\n"  # GNU.sparse 1.0, in the member's data: no holes

    def _body(self, kind: bytes, size: int) -> bytes:
        self._extensions += 1
        if self._extensions > MAX_EXTENSIONS:
            raise InvalidHeaderError(f"more than {MAX_EXTENSIONS} extension headers of one member")
        if size < 0 or self._bytes + size > MAX_HEADER_BYTES:
            raise InvalidHeaderError(f"extension headers of {self._bytes + size} bytes")
        self._bytes += size
        body = self._file.read(size)
        if kind in _PAX:
            _check_records(body, for_all=kind == tarfile.XGLTYPE)
        # What holds for all members behind it is not known to a reader that begins there: nothing may depend on it.
        return b"" if kind == tarfile.XGLTYPE else body

    def _pass_map(self) -> None:
        while True:
            block = self._file.read(_BLOCK)
            if len(block) < _BLOCK:
                raise InvalidHeaderError("the tar ends inside the map of a sparse member")
            if not block[_GOES_ON]:
                return


def _check_records(body: bytes, *, for_all: bool) -> None:
    """Raises `tarfile.InvalidHeaderError` for records of a pax header on which tarfile would work for hours, or for gigabytes."""
    if _DIGITS.search(body):
        raise InvalidHeaderError(f"a pax header with more than {MAX_DIGITS} digits in a row")
    at = 0
    while (record := _RECORD.match(body, at)) is not None:
        at += int(record[1])
        if at <= record.end():  # else each record could have all that follows as its keyword
            raise InvalidHeaderError("a record of a pax header is shorter than its keyword")
        if for_all and (record[2] in (b"path", b"size") or record[2].startswith(b"GNU.sparse.")):
            raise InvalidHeaderError(f"a global pax header that changes {record[2].decode('utf-8', 'replace')} of all members")
