"""Parts: their names, and what one listing says of them. A part is one object, and its existence is the commit."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.storage import Store, join

PART_BYTES = 64 << 20  # of encoded images; a part ends where it is reached
_NAME = re.compile(r"^([0-9a-f]{24})-(\d{10})-(?:max(\d{1,5})|(\d{5})(-last)?)\.parquet\Z")


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """What a listing says of a part: whose it is, its first index, how many rows, and whether it ends its source.

    The name holds source and first index, so that two parts that begin at one index cannot both exist, and the most rows that
    a part of this run may have (`--part-images`). How many it has, and whether it is the last, is in the size of the file:
    see `padding`. In runs of format 1 all of it was in the name (`max_rows` is 0).

    size: bytes of the file; 0 where it is not known.
    """

    source: str
    first: int
    rows: int
    last: bool
    max_rows: int = 0
    size: int = field(default=0, compare=False)

    def __str__(self) -> str:
        if not self.max_rows:
            return f"{self.source}-{self.first:010d}-{self.rows:05d}{'-last' if self.last else ''}.parquet"
        return part_key(self.source, self.first, self.max_rows)

    @property
    def file(self) -> tuple[str, int]:
        """Name and size of its file: a part that was made anew has the same name, and hardly the same size."""
        return str(self), self.size

    @property
    def stop(self) -> int:
        """The index behind its last row."""
        return self.first + self.rows

    @property
    def padding(self) -> int:
        """Bytes to add to a file of `size` bytes, so that its size says how many rows it has and whether it is the last.

        Size modulo 2 * (max_rows + 1) is then 2 * rows + last: on average as many bytes as a part may have rows.
        """
        assert self.max_rows
        return (2 * self.rows + self.last - self.size) % _modulus(self.max_rows)

    @classmethod
    def parse(cls, file_name: str, size: int) -> "PartName | None":
        """What the name and the size of a file say; None for names that are no part's."""
        found = _NAME.match(file_name)
        if found is None:
            return None
        source, first, most, rows, last = found.groups()
        if most is None:
            return cls(source, int(first), int(rows), bool(last), 0, size)
        rows_and_last = size % _modulus(int(most))
        return cls(source, int(first), rows_and_last // 2, bool(rows_and_last % 2), int(most), size)


def _modulus(max_rows: int) -> int:
    return 2 * (max_rows + 1)


def part_key(source: str, first: int, max_rows: int) -> str:
    """The file name of the part of a source that begins at this index: who creates it first has made the part."""
    return f"{source}-{first:010d}-max{max_rows}.parquet"


def is_part_name(file_name: str) -> bool:
    """Is it the name of a part, or of its file of failures?"""
    return _NAME.match(file_name) is not None


def source_digest(uri: str, size: int | None, version: str | None) -> str:
    """The first field of a part's name: of a shard's URI and identity, or of a plan file's name."""
    return hashlib.sha256(json.dumps([uri, size, version]).encode()).hexdigest()[:24]


def list_parts(store: Store, out: str) -> dict[str, list[PartName]]:
    """The committed parts of a run by source, each list in order of first index: one listing."""
    found: dict[str, list[PartName]] = defaultdict(list)
    folder = join(out, "masks") + "/"
    for info in store.walk(folder):
        if (name := PartName.parse(info.uri.removeprefix(folder), info.size or 0)) is not None:
            found[name.source].append(name)
    for names in found.values():
        names.sort()
    return found


def row_digest(shard: str, index: int, mask_HW: npt.NDArray[np.uint8]) -> int:
    """One row's share of `labels_digest`: SHA-256 of shard, index, size and label pixels, as an integer."""
    height, width = mask_HW.shape
    header = json.dumps([shard, index, width, height]).encode()
    digest = hashlib.sha256(len(header).to_bytes(4, "big") + header)
    digest.update(np.ascontiguousarray(mask_HW).data)
    return int.from_bytes(digest.digest(), "big")


def add_digests(digests: Iterable[int | str]) -> str:
    """The order-free sum modulo 2**256, as 64 hex digits."""
    total = sum(int(digest, 16) if isinstance(digest, str) else digest for digest in digests)
    return f"{total % (1 << 256):064x}"
