"""A store of one object in memory. It notes each read, and fails at chosen bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.storage.base import ObjectInfo


@dataclass(frozen=True, slots=True)
class Request:
    """One read of the store."""

    uri: str
    start: int
    length: int | None
    version: str | None


def short_of_memory(*_: object, **__: object) -> NoReturn:
    """Raise Arrow's memory error; stands in for a function of Arrow."""
    raise pa.ArrowMemoryError("malloc of size 64 failed")


def data_bytes() -> int:
    """The data bytes of this process, as RLIMIT_DATA counts them."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) << 10


class MemoryStore:
    """Every URI names the one object `data`. A read that touches a byte of `broken` raises `StorageError`."""

    def __init__(self, data: bytes, broken: range = range(0)) -> None:
        self.data, self.broken = data, broken
        self.requests: list[Request] = []

    def read(
        self,
        uri: str,
        start: int = 0,
        length: int | None = None,
        version: str | None = None,
        max_bytes: int | None = None,
    ) -> bytes:
        """Read a range. Fails if the range goes beyond the end: no reader may ask for such a range."""
        self.requests.append(Request(uri, start, length, version))
        stop = len(self.data) if length is None else start + length
        assert stop <= len(self.data)
        assert max_bytes is None or stop - start <= max_bytes
        if self.broken and start < self.broken.stop and stop > self.broken.start:
            raise StorageError("reset")
        return self.data[start:stop]

    def stat(self, uri: str) -> ObjectInfo:
        """The size of the object; no version."""
        return ObjectInfo(uri, len(self.data), None)

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """List the one object."""
        yield self.stat(prefix)
