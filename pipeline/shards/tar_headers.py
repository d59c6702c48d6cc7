"""Headers of tars: from one header to the next in few requests, and limits on what Python's `tarfile` reads per member.

Any number of extension headers may stand before a header, and `tarfile` trusts each one: a negative size means the rest of the
tar, the time for digits grows with their square, a map of holes becomes a list of numbers, and global records apply up to the
end of the tar.
"""

import io
import re
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor
from tarfile import InvalidHeaderError  # type: ignore[attr-defined]

from pipeline.shards.range_file import CHUNK_BYTES, RangeFile
from pipeline.storage import ObjectInfo, Store

HEADER_BYTES = 16 << 10  # one request: a header, and the headers of small members after it
FAR_BYTES = 1 << 20  # from header to header; a stream brings so many bytes in half the time of a request
_REMEMBERED = 8  # the mean distance is taken over about so many headers


class HeaderFile(io.RawIOBase):
    """The bytes of a tar, for a reader that seeks forwards from header to header.

    If headers are near each other, whole chunks are fetched, the next one while this one is used: with members of 10 kB, one
    request brings 800 headers. If headers are far from each other, each header costs a small request, and the bytes between are
    not read. streams: False if a request costs next to nothing, as on a local disk: then all requests are small.
    """

    def __init__(self, store: Store, info: ObjectInfo, *, streams: bool = True) -> None:
        assert info.size is not None
        self._store, self._info, self._size, self._streams = store, info, info.size, streams
        self._position = self._start = 0
        self._chunk = b""
        self._header: int | None = None
        self._distance: float | None = None  # running mean from header to header
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
        """Fetch the chunk at the position: at least `wanted` bytes, but no more than a chunk holds."""
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


MAX_HEADER_BYTES = 1 << 20  # all pax and GNU long-name headers of one member: names of 4 kB fit, a bomb does not
MAX_EXTENSIONS = 16  # extension headers of one member; tools write at most four, and Python's stack ends at some 300
MAX_DIGITS = 512  # in a row: for 1 MiB of such rows tarfile's search for `hdrcharset` takes 0.6 s, for digits alone half an hour

_BLOCK = tarfile.BLOCKSIZE
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_EXTENSIONS = (*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_DIGITS = re.compile(rb"(?<!\d)\d{%d}" % (MAX_DIGITS + 1))
_RECORD = re.compile(rb"(\d+) ([^=]+)=")  # as tarfile finds records
_GOES_ON = 504  # this byte of a block of an old GNU sparse map says whether another block follows


class MemberHeaders:
    """The file from which `tarfile.TarInfo.fromtarfile` reads the headers of one member; `seek` goes to the first of them.

    tarfile reads an extension header and its body, perhaps more of these, and then the header of the member. After this header
    it reads only the map of a sparse member. `read` says that this map is empty.
    """

    def __init__(self, file: RangeFile | HeaderFile) -> None:
        self._file = file
        self._type: bytes | None = None  # type of the last header; None: a header comes next
        self._extensions = self._bytes = 0  # extension headers of this member, and their bytes

    def tell(self) -> int:
        """The position in bytes."""
        return self._file.tell()

    def seek(self, offset: int) -> int:
        """Go to where the headers of a member begin."""
        self._type, self._extensions, self._bytes = None, 0, 0
        return self._file.seek(offset)

    def read(self, size: int) -> bytes:
        """The next header, body or map. Raises `tarfile.InvalidHeaderError` and `StorageError`."""
        if self._type is None:
            header = self._file.read(size)
            self._type = header[156:157]
            return header
        if self._type in _EXTENSIONS:
            kind, self._type = self._type, None
            return self._body(kind, size)
        if self._type == tarfile.GNUTYPE_SPARSE:
            self._pass_map()
            return bytes(_BLOCK)  # no holes, and no other block follows
        return b"0\n"  # the map of GNU.sparse 1.0 lies in the member's data: no holes

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
        # A reader that begins after a global header does not know its records: nothing may depend on these.
        return b"" if kind == tarfile.XGLTYPE else body

    def _pass_map(self) -> None:
        while True:
            block = self._file.read(_BLOCK)
            if len(block) < _BLOCK:
                raise InvalidHeaderError("the tar ends inside the map of a sparse member")
            if not block[_GOES_ON]:
                return


def _check_records(body: bytes, *, for_all: bool) -> None:
    """Raise `tarfile.InvalidHeaderError` for records of a pax header that would cost tarfile hours or gigabytes.

    for_all: the header is global, and may not change path, size or sparse map of all members.
    """
    if _DIGITS.search(body):
        raise InvalidHeaderError(f"a pax header with more than {MAX_DIGITS} digits in a row")
    at = 0
    while (record := _RECORD.match(body, at)) is not None:
        at += int(record[1])
        if at <= record.end():  # else the keyword of each record could be all bytes that follow
            raise InvalidHeaderError("a record of a pax header is shorter than its keyword")
        if for_all and (record[2] in (b"path", b"size") or record[2].startswith(b"GNU.sparse.")):
            raise InvalidHeaderError(f"a global pax header that changes {record[2].decode('utf-8', 'replace')} of all members")
