"""Footers: what a part says about itself. Also the bytes of parts and of their failures."""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import Damaged, NewerFormat, ObjectChanged
from pipeline.labels.statistics import LEVELS
from pipeline.output.parts import PartName, source_digest
from pipeline.schema import FAILURES, masks_schema
from pipeline.shards.base import Cursor
from pipeline.storage import Store, join

FOOTER_KEY = b"maskfleet"
CHECKSUM_KEY = b"maskfleet.sha256"
FOOTER_FORMAT = 2
_TAIL_BYTES = 32 << 10  # read first; a footer of 256 photographs has 12 kB with 21 classes, and 20 kB with 150 classes


@dataclass(frozen=True, slots=True)
class Failure:
    """One image that was not labelled; the columns of `failures/`."""

    image_id: str
    shard: str
    index: int
    stage: str
    error: str
    message: str
    bytes_length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFooter:
    """What a part says about itself, in the key `maskfleet` of its Parquet metadata, as JSON.

    source: {uri, size, version}. histograms: int64 (C, 256). images_by_class, pixels_by_class: (C,), counted in the stored
    masks. digest: this part's share of `labels_digest`. after: the place in the source at which the next part begins.
    broken: does the last row stand for the rest of a truncated shard? part_images: the most rows that a part of this run
    may have; 0 in format 1, in which the name of a part says how many rows it has.
    """

    fingerprint: str
    source: dict[str, Any]
    first: int
    rows: int
    last: bool
    masks: int
    broken: bool
    failures: tuple[Failure, ...]
    histograms: npt.NDArray[np.int64]
    images_by_class: tuple[int, ...]
    pixels_by_class: tuple[int, ...]
    pixels: int
    digest: str
    after: Cursor
    part_images: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FOOTER_FORMAT

    @property
    def name(self) -> PartName:
        """The name that this part must have, with the rows and `last` that the size of its file must say."""
        source = source_digest(self.source["uri"], self.source["size"], self.source["version"])
        return PartName(source, self.first, self.rows, self.last, self.part_images)

    def to_dict(self) -> dict[str, Any]:
        """The footer as values that JSON can hold, in format 2."""
        assert self.format != 1  # footers of format 1 are read, and never written again
        return asdict(self) | {"histograms": pack_histograms(self.histograms)}

    def to_json(self) -> str:
        """The footer as JSON. Equal parts give equal text, wherever they are made."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: bytes | str) -> "PartFooter":
        """Read a footer. Raises `Damaged` if the text is not a footer, `NewerFormat` if the footer has a later format."""
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise Damaged(f"the footer of a part cannot be read: {error}") from error

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PartFooter":
        """Read a footer from parsed JSON. Raises like `from_json`."""
        try:
            values = dict(values)
            known = values.get("format", 1)
            if isinstance(known, int) and known > FOOTER_FORMAT:
                raise NewerFormat("a footer", known, FOOTER_FORMAT)
            unpack = _unpacked_1 if known == 1 else unpack_histograms
            values["images_by_class"] = tuple(values["images_by_class"])
            values["histograms"] = unpack(values["histograms"], len(values["images_by_class"]))
            values["failures"] = tuple(Failure(**failure) for failure in values["failures"])
            values["after"] = Cursor(**values["after"])
            values["pixels_by_class"] = tuple(values["pixels_by_class"])
            footer = cls(**values)
            _ = footer.name  # raises if a key of the source is missing
            return footer
        except (ValueError, TypeError, KeyError, AttributeError, zlib.error) as error:
            raise Damaged(f"the footer of a part cannot be read: {error}") from error


def pack_histograms(histograms: npt.NDArray[np.int64]) -> str:
    """Histograms, int64 (C, 256), as short text.

    The text holds the differences between neighbouring levels, with the sign in the lowest bit, all lowest bytes first: counts
    have few high bytes. Under zlib this takes about half of what the counts take (256 photographs of VOC, 19 classes: 4.7 kB
    instead of 8.0 kB).
    """
    steps = np.diff(histograms, axis=1, prepend=0)
    folded = ((steps << 1) ^ (steps >> 63)).astype("<u8")
    planes = np.ascontiguousarray(folded).view(np.uint8).reshape(-1, 8).T
    used = int(np.flatnonzero(planes.any(axis=1)).max(initial=-1)) + 1
    return base64.b85encode(zlib.compress(planes[:used].tobytes(), 9)).decode()


def unpack_histograms(text: str, classes: int) -> npt.NDArray[np.int64]:
    """Text of `pack_histograms` -> int64 (C, 256). Raises `ValueError` or `zlib.error` for any other text."""
    data = np.frombuffer(_inflated(base64.b85decode(text), 8 * LEVELS * classes), np.uint8)
    planes = np.zeros((8, classes * LEVELS), np.uint8)
    used = data.reshape(-1, classes * LEVELS) if data.size else planes[:0]
    planes[: len(used)] = used
    folded = np.ascontiguousarray(planes.T).view("<u8").reshape(classes, LEVELS)
    steps = (folded >> 1).view(np.int64) ^ -(folded & 1).view(np.int64)
    return np.cumsum(steps, axis=1, dtype=np.int64)


def _unpacked_1(text: str, classes: int) -> npt.NDArray[np.int64]:
    """Text of format 1, which holds the counts themselves -> int64 (C, 256)."""
    data = _inflated(base64.b64decode(text), 8 * LEVELS * classes)
    return np.frombuffer(data, "<i8").reshape(classes, LEVELS)


def _inflated(data: bytes, max_bytes: int) -> bytes:
    inflate = zlib.decompressobj()
    found = inflate.decompress(data, max_bytes + 1)
    if not inflate.eof or len(found) > max_bytes:
        raise ValueError("its histograms are cut off, or too long")
    return found


def part_bytes(rows: Sequence[dict[str, object]], footer: PartFooter, *, confidence_map: bool) -> bytes:
    """The Parquet file of a part. Equal rows and footers give equal bytes; `PartName.parse` reads the size of the file."""
    text = footer.to_json().encode()
    stored = {FOOTER_KEY: text, CHECKSUM_KEY: hashlib.sha256(text).hexdigest().encode()}
    data = parquet_bytes(pa.Table.from_pylist(list(rows), schema=masks_schema(confidence_map=confidence_map)), stored)
    if not footer.part_images:
        return data
    at = len(data) - footer_length(data)  # no reader reads bytes between the pages and the footer
    return data[:at] + bytes(replace(footer.name, size=len(data)).padding) + data[at:]


def footer_length(data: bytes) -> int:
    """How many bytes the footer of a Parquet file takes: the metadata, their length, and the magic."""
    return int.from_bytes(data[-8:-4], "little") + 8


def failures_bytes(footer: PartFooter) -> bytes:
    """The file `failures/<part>`: the failures in the footer, as a table."""
    return parquet_bytes(pa.Table.from_pylist([asdict(failure) for failure in footer.failures], schema=FAILURES), {})


def parquet_bytes(table: pa.Table, metadata: Mapping[bytes, bytes], *, row_group_size: int | None = None) -> bytes:
    """A table as a Parquet file. metadata: keys of the file. Keys of the schema would be stored twice: Arrow keeps a copy."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True, store_schema=True) as writer:
        writer.write_table(table, row_group_size=row_group_size)
        for key, value in metadata.items():
            writer.add_key_value_metadata({key: value})
    return bytes(sink.getvalue())


def read_footer(store: Store, out: str, name: PartName) -> PartFooter:
    """Read the footer of a committed part from the end of its file, by one request if its size is known.

    Raises `Damaged`. Raises `ObjectMissing` or `ObjectChanged` if the part was removed or made anew after the listing.
    """
    uri = join(out, "masks", str(name))
    if not name.size:
        info = store.stat(uri)
        name = replace(name, size=info.size or 0, version=info.version or "")
    try:
        footer = _read_footer(store, uri, name)
    except Damaged as damage:
        if not name.version and store.stat(uri).size != name.size:
            raise ObjectChanged(f"masks/{name} has been made anew") from None
        raise Damaged(f"masks/{name}: {damage}") from damage
    if footer.name != name:
        raise Damaged(f"masks/{name}: its footer says that it is {footer.name} of {footer.rows} rows, its name and size do not")
    return footer


def _read_footer(store: Store, uri: str, name: PartName) -> PartFooter:
    def read(start: int, stop: int) -> bytes:
        return store.read(uri, start, stop - start, name.version or None)

    start = max(0, name.size - _TAIL_BYTES)
    tail = read(start, name.size)
    more = name.size - footer_length(tail) if len(tail) >= 8 else start
    if 0 <= more < start:  # many failures make a long footer
        tail = read(more, start) + tail
    try:
        metadata = pq.read_metadata(pa.BufferReader(tail)).metadata or {}
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: damaged column names are not UTF-8
        if isinstance(error, MemoryError):
            raise
        raise Damaged(str(error).splitlines()[0]) from error
    return footer_of(metadata)


def footer_of(metadata: Mapping[bytes, bytes]) -> PartFooter:
    """The footer in the metadata of a Parquet file. Raises `Damaged` if the footer is missing, or fails its checksum."""
    if FOOTER_KEY not in metadata:
        raise Damaged("no footer of maskfleet")
    text = metadata[FOOTER_KEY]
    footer = PartFooter.from_json(text)
    if footer.format > 1 and metadata.get(CHECKSUM_KEY) != hashlib.sha256(text).hexdigest().encode():
        raise Damaged("its footer is not the one that was written")
    return footer
