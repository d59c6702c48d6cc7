"""`OUT/checkpoint.parquet`: the sums of most parts, and the list of these parts. Only the footers of the others are read.

Each row is a part: a 64-bit hash of its name, size and version in a listing. A checkpoint is proven if a listing holds each of
its parts, unchanged. Any proven checkpoint is right and may be used, whoever wrote it. A checkpoint is ignored, and footers are
read instead, if the file is damaged, of another run or of a newer format, or if one of its parts is gone or made anew.
"""

import hashlib
import json
import logging
import threading
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import Damaged, ObjectChanged, ObjectDenied, ObjectMissing, StorageError
from pipeline.output.footer import CHECKSUM_KEY, FOOTER_KEY, footer_length, pack_histograms, unpack_histograms
from pipeline.output.parts import PartTable
from pipeline.storage import Store, WritableStore, join
from pipeline.storage.base import ObjectInfo
from pipeline.sums.totals import PartSet, Totals

NAME = "checkpoint.parquet"
CHECKPOINT_FORMAT = 1
_SCHEMA = pa.schema([("part", pa.uint64()), ("masks", pa.uint32()), ("failures", pa.uint32())])
_SUMS = ("images", "masks", "failures", "broken_shards", "pixels")
_BYTES_A_PART, _BYTES = 32, 16 << 20  # most bytes per part, and of the rest
_TAIL_BYTES = 64 << 10  # read first; the metadata take 20 kB with 21 classes, and 105 kB with 150 classes
_MORE_PARTS = 1000  # another attempt may have made so many parts since the listing

log = logging.getLogger(__name__)


class _Ignored(Exception):
    """The checkpoint is not damaged, but it is not for this version or this run."""


def checkpoint_bytes(totals: Totals, fingerprint: str, removal: str = "") -> bytes:
    """The bytes of the file. totals: a copy that no thread changes. removal: id of the last removal of parts."""
    keys, counts = totals.parts.arrays()
    values = {
        "format": CHECKPOINT_FORMAT, "fingerprint": fingerprint, "classes": totals.classes, "removal": removal,
        "parts": len(keys),
        "parts_sha256": hashlib.sha256(keys.astype("<u8").tobytes()).hexdigest(),
        **{name: getattr(totals, name) for name in _SUMS}, "digest": totals.labels_digest, "errors": dict(totals.errors),
        "histograms": pack_histograms(totals.histograms), "images_by_class": totals.images_by_class.tolist(),
        "pixels_by_class": totals.pixels_by_class.tolist(),
    }  # fmt: skip
    text = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
    table = pa.table([keys, counts[:, 0], counts[:, 1]], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    encoding = {"part": "DELTA_BINARY_PACKED"}  # a million ascending keys take 5.6 bytes per key
    with pq.ParquetWriter(
        sink,
        _SCHEMA,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=["masks", "failures"],
        column_encoding=encoding,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({FOOTER_KEY: text})
        writer.add_key_value_metadata({CHECKSUM_KEY: hashlib.sha256(text).hexdigest().encode()})
    return bytes(sink.getvalue())


def _said(metadata: pq.FileMetaData) -> dict[str, Any]:
    """The values in the metadata. Raises `Damaged`, or `_Ignored` if the checkpoint has another format."""
    found = metadata.metadata or {}
    text = found.get(FOOTER_KEY, b"")
    if found.get(CHECKSUM_KEY) != hashlib.sha256(text).hexdigest().encode():
        raise Damaged("its sums are not those that were written")
    values = json.loads(text)
    if not isinstance(values, dict):
        raise Damaged("its sums are no JSON object")
    if values.get("format") != CHECKPOINT_FORMAT:
        raise _Ignored
    return values


def _totals(data: bytes, fingerprint: str, classes: tuple[str, ...], max_parts: int) -> tuple[Totals, str]:
    """The sums of a checkpoint, and the id of the last removal.

    Raises `Damaged`, or `_Ignored` if the checkpoint is of another run, has another format, or has more than `max_parts` parts.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        values = _said(file.metadata)
        if values["fingerprint"] != fingerprint or file.metadata.num_rows > max_parts:
            raise _Ignored
        keys, masks, failures = (column.to_numpy() for column in file.read().cast(_SCHEMA).columns)
        totals = Totals(classes, parts=PartSet(keys, np.stack([masks, failures], axis=1)))
        for name in _SUMS:
            setattr(totals, name, int(values[name]))
        totals.digest = int(values["digest"], 16)
        totals.errors = Counter({name: int(count) for name, count in values["errors"].items()})
        totals.histograms = unpack_histograms(values["histograms"], len(classes))
        totals.images_by_class = np.array(values["images_by_class"], np.int64)
        totals.pixels_by_class = np.array(values["pixels_by_class"], np.int64)
        if not _agree(totals, values):
            raise Damaged("its sums contradict each other")
        return totals, str(values["removal"])
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error) as error:
        if isinstance(error, MemoryError):
            raise
        raise Damaged(f"cannot be read: {(str(error).splitlines() or [''])[0][:200]}") from error


def _agree(totals: Totals, values: dict[str, Any]) -> bool:
    """Do rows, sums and metadata agree, as far as this can be checked?"""
    keys, counts = totals.parts.arrays()
    return (
        tuple(values["classes"]) == totals.classes
        and len(keys) == values["parts"]
        and hashlib.sha256(keys.astype("<u8").tobytes()).hexdigest() == values["parts_sha256"]
        and bool((keys[1:] > keys[:-1]).all())
        and counts.sum(axis=0, dtype=np.int64).tolist() == [totals.masks, totals.failures]
        and totals.images == totals.masks + totals.failures == totals.masks + totals.errors.total()
        and len(totals.images_by_class) == len(totals.pixels_by_class) == len(totals.classes)
        and int(totals.histograms.sum()) == totals.pixels
        and _are_pixels_of(totals.histograms, totals.pixels_by_class)
    )


def _are_pixels_of(histograms: npt.NDArray[np.int64], pixels_by_class: npt.NDArray[np.int64]) -> bool:
    """Is there a least confidence for which the histograms, (C, 256), have so many pixels, (C,), at or above it?

    Masks keep exactly the pixels at or above such a threshold.
    """
    kept = histograms[:, ::-1].cumsum(axis=1)
    return bool((kept == pixels_by_class[:, None]).all(axis=0).any())


def _max_bytes(parts: int) -> int:
    """The most parts that a checkpoint may have if so many parts are known: another attempt may have made more."""
    return 2 * parts + _MORE_PARTS


class Checkpoint:
    """The checkpoint of one run, as one attempt reads and replaces it.

    Two attempts replace each other's checkpoint. Any proven checkpoint is right, and one with more parts is worth more. So `save`
    first looks at the file, and leaves a checkpoint with more parts. An attempt that is about to remove parts writes a smaller
    checkpoint first. `save` leaves this one too, because a larger one could not be proven any more. If another attempt writes
    between the look and the put, the smaller checkpoint stays until the next `save` of either attempt.
    """

    def __init__(self, store: Store, out: str, fingerprint: str, classes: tuple[str, ...]) -> None:
        self._store, self._uri = store, join(out, NAME)
        self._fingerprint, self._classes = fingerprint, classes
        self._lock = threading.Lock()  # two threads of one attempt save
        self._seen = ""  # version of the file that this attempt read or wrote last
        self._parts = 0  # number of parts in this version; 0 if it is not proven
        self._removal = ""  # id of the last known removal
        self.newer_removal = ""  # removal by another attempt, because of which the last `save` wrote nothing; else ""

    def read(self, max_parts: int) -> Totals | None:
        """The sums in the file, or None if there are none for this run and format. Raises `Damaged`.

        max_parts: a checkpoint of more parts counts as none. The caller must find out if the sums are proven.
        """
        try:
            there = self._store.stat(self._uri)
            found = self._read(there, max_parts)
        except (ObjectMissing, ObjectDenied, ObjectChanged):
            return None
        return found and found[0]

    def _read(self, there: ObjectInfo, max_parts: int) -> tuple[Totals, str] | None:
        if (there.size or 0) > _BYTES + _BYTES_A_PART * max_parts:
            return None
        data = self._store.read(self._uri, 0, there.size, there.version)
        try:
            return _totals(data, self._fingerprint, self._classes, max_parts)
        except _Ignored:
            return None

    def load(self, listed: PartTable, list_again: Callable[[], PartTable]) -> tuple[Totals | None, PartTable]:
        """The sums, or None if they are not proven; and the listing by which they are proven.

        Sums are proven if all their parts are in the listing, unchanged. The file may be newer than `listed` and have more parts:
        then `list_again` makes another listing.
        """
        with self._lock:
            try:
                there = self._store.stat(self._uri)
                self._seen, self._parts = there.version or "", 0
                found = self._read(there, _max_bytes(listed.part_count))
            except (ObjectMissing, ObjectDenied, ObjectChanged):
                return None, listed
            except Damaged as damage:
                log.warning("%s is ignored: %s", self._uri, damage)
                return None, listed
            if found is None:
                return None, listed
            totals, self._removal = found
            if not totals.is_within(listed.part_keys):
                listed = list_again()
                if not totals.is_within(listed.part_keys):
                    return None, listed
            self._parts = len(totals.parts)
            return totals, listed

    def follow(self, removal: str) -> None:
        """Note a removal by another attempt. The sums of this attempt hold none of the removed parts."""
        with self._lock:
            self._removal = removal

    def save(self, store: WritableStore, totals: Totals, *, last: bool = False, smaller: bool = False) -> bool:
        """Replace the checkpoint by these sums if they are worth more -> whether it was replaced.

        last: the sums are those of a new listing, so only a checkpoint that holds all their parts is left. smaller: parts will
        be removed in a moment, so the checkpoint that is there cannot be proven any more. If the store refuses the put, only the
        next attempt loses time. Torn sums are never saved: each later attempt would trust them.
        """
        copy = totals.sums()
        if copy.torn or not len(copy.parts):
            return False
        if not self._lock.acquire(blocking=last or smaller):
            return False  # another thread saves now
        try:
            if not smaller and not self._is_worth_more(copy, last=last):
                return False
            self._removal = uuid.uuid4().hex if smaller else self._removal
            self._seen = store.replace(self._uri, checkpoint_bytes(copy, self._fingerprint, self._removal))
            self._parts = len(copy.parts)
            return True
        except StorageError as error:
            log.warning("%s could not be written: %s", self._uri, error)
            return False
        finally:
            self._lock.release()

    def _is_worth_more(self, mine: Totals, *, last: bool) -> bool:
        try:
            self.newer_removal = ""
            there = self._store.stat(self._uri)
            if there.version == self._seen:
                return len(mine.parts) > self._parts or (last and len(mine.parts) != self._parts)
            if not last:
                parts, removal = self._end_of(there)
                self.newer_removal = removal if removal != self._removal else ""
                return not self.newer_removal and parts < len(mine.parts)
            theirs = self._read(there, _max_bytes(len(mine.parts)))
            return theirs is None or not theirs[0].has(mine.parts.arrays()[0]).all()
        except (ObjectMissing, ObjectChanged, Damaged, _Ignored):
            return True

    def _end_of(self, there: ObjectInfo) -> tuple[int, str]:
        """The number of parts and the last removal, from the end of the file. Raises `_Ignored` if it is of another run."""
        size = there.size or 0
        start = max(0, size - _TAIL_BYTES)
        tail = self._store.read(self._uri, start, size - start, there.version)
        more = size - footer_length(tail)
        if max(0, size - _BYTES) <= more < start:  # many classes make long metadata
            tail = self._store.read(self._uri, more, start - more, there.version) + tail
        try:
            values = _said(pq.read_metadata(pa.BufferReader(tail)))
            if values["fingerprint"] != self._fingerprint:
                raise _Ignored
            return int(values["parts"]), str(values["removal"])
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(str(error)) from error
