"""Which URIs are planned, and as which object. Only hashes are kept, so that a hundred million URIs fit into memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

Found = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Rows:
    """Hashes of the N rows of one plan file, sorted by `high`, each array (N,).

    high, low: the halves of the hash of the URI. identity: hash of size and version. row: number in the file.
    The arrays are contiguous: else each search would copy them.
    """

    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    identity: npt.NDArray[np.uint64]
    row: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, uris: Iterable[str], identities: Iterable[int]) -> "Rows":
        """Hash URIs and identities, given in the order of the file."""
        high, low = _hashes(uris)
        order = np.argsort(high, kind="stable")
        return cls(high[order], low[order], np.fromiter(identities, np.uint64)[order], order.astype(np.uint32))

    def __len__(self) -> int:
        return len(self.row)

    def at(self, start: int, high: int, low: int) -> tuple[int, int] | None:
        """Row and identity of these hashes, or None. start: first position with this `high`."""
        while start < len(self.high) and int(self.high[start]) == high:
            if int(self.low[start]) == low:
                return int(self.row[start]), int(self.identity[start])
            start += 1
        return None


class Known:
    """128-bit hashes of planned URIs and 64-bit hashes of their identities: 28 bytes per planned row."""

    def __init__(self) -> None:
        self._files: list[tuple[int, Rows]] = []

    def add(self, file: int, rows: Rows) -> None:
        """Add the rows of one plan file. If files have the same URI, the latest file wins."""
        self._files.append((file, rows))

    def find(self, uris: Sequence[str]) -> list[Found | None]:
        """File, row and identity hash of the latest row of each URI, or None. Searches each file once for all URIs."""
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
    """Hash of size and version; 0 if the server does not name both: then nothing is checked."""
    return 0 if size is None or version is None else xxhash.xxh3_64_intdigest(f"{size}|{version}".encode()) or 1


def _hashes(uris: Iterable[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """128-bit hashes of N URIs as high and low halves, uint64 (N,) each."""
    digests = b"".join(xxhash.xxh3_128_digest(uri.encode("utf-8", "surrogatepass")) for uri in uris)
    halves = np.frombuffer(digests, ">u8").astype(np.uint64)
    return np.ascontiguousarray(halves[0::2]), np.ascontiguousarray(halves[1::2])
