"""Which URIs are planned, and as which object: hashes, so that a hundred million of them fit into memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

Found = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Rows:
    """Hashes of the rows of one plan file, sorted by `high`; each array is contiguous, as a search would copy it otherwise."""

    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    identity: npt.NDArray[np.uint64]
    row: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, uris: Iterable[str], identities: Iterable[int]) -> "Rows":
        """The rows in their order in the file."""
        high, low = _hashes(uris)
        order = np.argsort(high, kind="stable")
        return cls(high[order], low[order], np.fromiter(identities, np.uint64)[order], order.astype(np.uint32))

    def __len__(self) -> int:
        return len(self.row)

    def at(self, start: int, high: int, low: int) -> tuple[int, int] | None:
        """Row and identity with these hashes, from `start`, the first with this `high`."""
        while start < len(self.high) and int(self.high[start]) == high:
            if int(self.low[start]) == low:
                return int(self.row[start]), int(self.identity[start])
            start += 1
        return None


class Known:
    """128-bit hashes of planned URIs and 64-bit hashes of their identities: 28 bytes an image."""

    def __init__(self) -> None:
        self._files: list[tuple[int, Rows]] = []

    def add(self, file: int, rows: Rows) -> None:
        """The rows of one plan file; those of later files win."""
        self._files.append((file, rows))

    def find(self, uris: Sequence[str]) -> list[Found | None]:
        """File, row and identity hash of the latest row of each URI; one search a file for all of them."""
        found: list[Found | None] = [None] * len(uris)
        if not self._files:
            return found
        high, low = _hashes(uris)
        left = np.arange(len(uris))
        for file, rows in ((file, rows) for file, rows in reversed(self._files) if len(rows)):
            at = np.searchsorted(rows.high, high[left])
            same = np.take(rows.high, at, mode="clip") == high[left]
            for number, start in zip(left[same].tolist(), at[same].tolist(), strict=True):
                there = rows.at(start, int(high[number]), int(low[number]))
                found[number] = None if there is None else (file, *there)
            left = left[[found[number] is None for number in left.tolist()]]
            if not left.size:
                break
        return found


def identity(size: int | None, version: str | None) -> int:
    """0 where the server names neither size nor version: then nothing is checked."""
    return 0 if size is None or version is None else xxhash.xxh3_64_intdigest(f"{size}|{version}".encode()) or 1


def _hashes(uris: Iterable[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The halves of 128-bit hashes."""
    digests = b"".join(xxhash.xxh3_128_digest(uri.encode("utf-8", "surrogatepass")) for uri in uris)
    halves = np.frombuffer(digests, ">u8").astype(np.uint64)
    return np.ascontiguousarray(halves[0::2]), np.ascontiguousarray(halves[1::2])
