"""Parts: their names, and what one listing says of them. A part is one object, and its existence is the commit."""

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.errors import Damaged
from pipeline.parallel import in_order
from pipeline.storage import ObjectInfo, Store, join
from pipeline.storage.base import PAGE

PART_BYTES = 64 << 20  # a part ends when its encoded images reach so many bytes
_NAME = re.compile(r"^([0-9a-f]{24})-(\d{10})-(?:max(\d{1,5})|(\d{5})(-last)?)\.parquet\Z")
_BATCH = 10_000  # names of a listing that are held as text at a time

Column = npt.NDArray[Any]  # (N,), numbers or bytes
Bools = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """What a listing says of a part: its source, its first index, its number of rows, and whether it ends its source.

    The name holds the source and the first index: two parts that begin at one index cannot both exist. The name also holds the
    most rows that a part of this run may have (`--part-images`). The size of the file says how many rows the part has, and
    whether the part is the last (see `padding`). In runs of format 1 the name says all of this (`max_rows` is 0).

    size: bytes of the file; 0 if not known. version: of the object, as listings name it; "" if not known.
    """

    source: str
    first: int
    rows: int
    last: bool
    max_rows: int = 0
    size: int = field(default=0, compare=False)
    version: str = field(default="", compare=False)

    def __str__(self) -> str:
        if not self.max_rows:
            return f"{self.source}-{self.first:010d}-{self.rows:05d}{'-last' if self.last else ''}.parquet"
        return part_key(self.source, self.first, self.max_rows)

    @property
    def key(self) -> int:
        """64-bit hash of name, size and version: a part made anew under this name has another key."""
        return _key(str(self), self.size, self.version)

    @property
    def stop(self) -> int:
        """The index after its last row."""
        return self.first + self.rows

    @property
    def padding(self) -> int:
        """How many bytes to add to a file of `size` bytes, so that the new size says `rows` and `last`.

        The new size modulo 2 * (max_rows + 1) is 2 * rows + last. On average the padding has as many bytes as a part may have
        rows.
        """
        assert self.max_rows
        return (2 * self.rows + self.last - self.size) % _modulus(self.max_rows)

    @classmethod
    def parse(cls, file_name: str, size: int, version: str = "") -> "PartName | None":
        """What the name and the size of a file say; None if the file is not a part."""
        found = _parse(file_name, size)
        return None if found is None else cls(*found, size, version)


def _parse(file_name: str, size: int) -> tuple[str, int, int, bool, int] | None:
    found = _NAME.match(file_name)
    if found is None:
        return None
    source, first, max_rows, rows, last = found.groups()
    if max_rows is None:
        return source, int(first), int(rows), bool(last), 0
    rows_and_last = size % _modulus(int(max_rows))
    return source, int(first), rows_and_last // 2, bool(rows_and_last % 2), int(max_rows)


def _key(file_name: str, size: int, version: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{file_name}|{size}|{version}".encode())


def _modulus(max_rows: int) -> int:
    return 2 * (max_rows + 1)


def part_key(source: str, first: int, max_rows: int) -> str:
    """The file name of the part of a source that begins at this index. Whoever creates the file first has made the part."""
    return f"{source}-{first:010d}-max{max_rows}.parquet"


def is_part_name(file_name: str) -> bool:
    """Is this the name of a part? Its file of failures has the same name."""
    return _NAME.match(file_name) is not None


def source_digest(uri: str, size: int | None, version: str | None) -> str:
    """The first field of a part's name: a hash of a shard's URI, size and version, or of a plan file's name."""
    return hashlib.sha256(json.dumps([uri, size, version]).encode()).hexdigest()[:24]


class PartTable(Mapping[str, list[PartName]]):
    """The parts of one listing: a mapping from a source's digest to its parts, by first index. About 100 bytes per part.

    `PartName` objects would take four times as much, so the table makes them on request and does not keep them.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = columns
        heads, tails = columns["head"], columns["tail"]
        new = (heads[1:] != heads[:-1]) | (tails[1:] != tails[:-1])
        self._starts = np.append(np.flatnonzero(np.append(True, new))[: len(heads)], len(heads)).astype(np.int64)
        self._heads = np.ascontiguousarray(heads[self._starts[:-1]]).data  # bisect is slower on a numpy array
        self._tails = tails[self._starts[:-1]]

    @classmethod
    def empty(cls) -> "PartTable":
        """A table without parts."""
        return cls({name: np.zeros(0, kind) for name, kind in _COLUMNS.items()})

    @property
    def part_keys(self) -> Keys:
        """uint64 (N,): `PartName.key` of each part, in the order of the table."""
        return self._columns["key"].astype(np.uint64, copy=False)

    @property
    def part_count(self) -> int:
        """The number of parts, N, of all sources together."""
        return len(self._columns["key"])

    @property
    def row_count(self) -> int:
        """How many rows all parts cover."""
        return int(self._columns["rows"].sum(dtype=np.int64))

    def __len__(self) -> int:
        return len(self._heads)

    def __iter__(self) -> Iterator[str]:
        return (self._source(number) for number in range(len(self)))

    def __getitem__(self, source: str) -> list[PartName]:
        head, tail = int(source[:16], 16), int(source[16:], 16)
        number = bisect_left(self._heads, head)
        while number < len(self._heads) and self._heads[number] == head:
            if self._tails[number] == tail:
                return list(self._parts(slice(self._starts[number], self._starts[number + 1])))
            number += 1
        raise KeyError(source)

    def _source(self, number: int) -> str:
        return f"{self._heads[number]:016x}{self._tails[number]:08x}"

    def parts(self, chosen: Bools | None = None) -> Iterator[PartName]:
        """All parts, or the chosen ones, one at a time. chosen: bool (N,)."""
        if chosen is None:
            return chain.from_iterable(self._parts(slice(at, at + _BATCH)) for at in range(0, self.part_count, _BATCH))
        places = np.flatnonzero(chosen)
        return chain.from_iterable(self._parts(places[at : at + _BATCH]) for at in range(0, len(places), _BATCH))

    def _parts(self, places: slice | npt.NDArray[np.int64]) -> Iterator[PartName]:
        heads, tails, *others, versions, _ = (column[places].tolist() for column in self._columns.values())
        sources = (f"{head:016x}{tail:08x}" for head, tail in zip(heads, tails, strict=True))
        return map(PartName, sources, *others, (version.decode() for version in versions))

    def of(self, sources: Container[str]) -> Bools:
        """Which parts are of these sources? bool (N,)."""
        known = np.fromiter((source in sources for source in self), np.bool_, len(self))
        return np.repeat(known, np.diff(self._starts))

    def chains(self) -> tuple[Bools, Bools]:
        """Two answers for each source, in order, each bool (len(self),).

        Do the parts of the source follow each other without a gap from 0 to its last part? Does a part begin inside the part
        before?
        """
        if not self.part_count:
            return np.zeros(0, np.bool_), np.zeros(0, np.bool_)
        first, starts = self._columns["first"], self._starts[:-1]
        expected = np.append(0, (first + self._columns["rows"])[:-1])
        expected[starts] = 0
        whole = np.logical_and.reduceat(first == expected, starts) & self._columns["last"][self._starts[1:] - 1]
        return whole, np.logical_or.reduceat(first < expected, starts)

    def only(self, chosen: Bools) -> "PartTable":
        """A table of the chosen parts. chosen: bool (N,)."""
        if chosen.all():
            return self
        return PartTable({name: column[chosen] for name, column in self._columns.items()})


_COLUMNS = {  # in the order of the arguments of `PartName`; the source takes two columns
    "head": np.uint64, "tail": np.uint32, "first": np.int64, "rows": np.int32, "last": np.bool_, "max_rows": np.int32,
    "size": np.int64, "version": np.bytes_, "key": np.uint64,
}  # fmt: skip


def list_parts(store: Store, out: str) -> PartTable:
    """The committed parts of a run by source and first index, from one listing. Raises `Damaged` if two keys are equal."""
    folder = join(out, "masks") + "/"
    batches = _listed(store, folder) or [_batch([])]
    columns: dict[str, Column] = {}
    for name in _COLUMNS:  # column by column, so that memory holds only one column twice
        columns[name] = np.concatenate([batch.pop(name) for batch in batches])
    table = PartTable(_in_order(columns))
    if len(np.unique(table.part_keys)) < table.part_count:  # by chance, in one of 37 million outputs of a million parts
        raise Damaged(f"{folder}: two parts have one key, by chance: copy any part over itself, which gives it another")
    return table


def _listed(store: Store, folder: str) -> list[dict[str, Column]]:
    """List the first page, then the rest by first digit, 16 at once: one page after another, a million names take minutes."""
    if not getattr(store, "walks_prefixes", False):  # only stores for outputs have this attribute
        return _batches(store.walk(folder), folder)
    walk = store.walk(folder)
    first = list(islice(walk, PAGE))
    if len(first) < PAGE or any(after.uri <= before.uri for before, after in pairwise(first)):  # directory buckets do not sort
        return _batches(chain(first, walk), folder)
    last = first[-1].uri

    def rest(digit: str) -> list[dict[str, Column]]:
        return _batches((info for info in store.walk(folder + digit) if info.uri > last), folder)

    digits = [digit for digit in "0123456789abcdef" if digit >= last.removeprefix(folder)[:1]]
    return [*_batches(first, folder), *chain.from_iterable(in_order(digits, rest, len(digits) or 1))]


def _batches(infos: Iterable[ObjectInfo], folder: str) -> list[dict[str, Column]]:
    found = (
        (*parsed, info.size or 0, info.version or "", _key(name, info.size or 0, info.version or ""))
        for info in infos
        if (parsed := _parse(name := info.uri.removeprefix(folder), info.size or 0)) is not None
    )
    return [_batch(rows) for rows in iter(lambda: list(islice(found, _BATCH)), [])]


def _batch(rows: list[tuple[str, int, int, bool, int, int, str, int]]) -> dict[str, Column]:
    source, first, count, last, max_rows, size, version, key = zip(*rows, strict=True) if rows else ((),) * 8
    heads, tails = [int(digest[:16], 16) for digest in source], [int(digest[16:], 16) for digest in source]
    values = (heads, tails, first, count, last, max_rows, size, [text.encode() for text in version], key)
    return {name: np.array(column, kind) for (name, kind), column in zip(_COLUMNS.items(), values, strict=True)}


def _in_order(columns: dict[str, Column]) -> dict[str, Column]:
    """Sort by source and first index. Listings have this order already, but for parts of format 1 that begin at one index."""
    is_so = np.zeros(max(0, len(columns["head"]) - 1), np.bool_)
    for name in ("first", "tail", "head"):
        before, after = columns[name][:-1], columns[name][1:]
        is_so = (after > before) | ((after == before) & is_so)
    if is_so.all():
        return columns
    order = np.lexsort([columns[name] for name in ("max_rows", "last", "rows", "first", "tail", "head")])
    return {name: column[order] for name, column in columns.items()}


def row_digest(shard: str, index: int, mask_HW: npt.NDArray[np.uint8]) -> int:
    """One row's share of `labels_digest`: SHA-256 of shard, index, size and label pixels, as an integer. mask_HW: label map."""
    height, width = mask_HW.shape
    header = json.dumps([shard, index, width, height]).encode()
    digest = hashlib.sha256(len(header).to_bytes(4, "big") + header)
    digest.update(np.ascontiguousarray(mask_HW).data)
    return int.from_bytes(digest.digest(), "big")


def add_digests(digests: Iterable[int | str]) -> str:
    """The sum of digests modulo 2**256, in any order, as 64 hex digits."""
    total = sum(int(digest, 16) if isinstance(digest, str) else digest for digest in digests)
    return f"{total % (1 << 256):064x}"
