"""Parts: their names, their footers, their bytes. A part is one object, and its existence is the commit."""

import base64
import hashlib
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import Damaged
from pipeline.schema import FAILURES, masks_schema
from pipeline.shards.base import Cursor
from pipeline.storage import Store, join
from pipeline.storage.base import ObjectInfo
from pipeline.storage.stream import RangeFile

FOOTER_KEY = b"maskfleet"
FOOTER_FORMAT = 1
PART_BYTES = 64 << 20  # of encoded images; a part ends where it is reached
_NAME = re.compile(r"^([0-9a-f]{24})-(\d{10})-(\d{5})(-last)?\.parquet\Z")


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """What the name of a part says: whose it is, its first index, how many rows, and whether it ends its source."""

    source: str
    first: int
    rows: int
    last: bool

    def __str__(self) -> str:
        return f"{self.source}-{self.first:010d}-{self.rows:05d}{'-last' if self.last else ''}.parquet"

    @property
    def stop(self) -> int:
        """The index behind its last row."""
        return self.first + self.rows

    @classmethod
    def parse(cls, file_name: str) -> "PartName | None":
        """None for names that are no part's."""
        found = _NAME.match(file_name)
        return cls(found[1], int(found[2]), int(found[3]), bool(found[4])) if found else None


def source_digest(uri: str, size: int | None, version: str | None) -> str:
    """The first field of a part's name: of a shard's URI and identity, or of a plan file's name."""
    return hashlib.sha256(json.dumps([uri, size, version]).encode()).hexdigest()[:24]


def list_parts(store: Store, out: str) -> dict[str, list[PartName]]:
    """The committed parts of a run by source, each list in order of first index: one listing."""
    found: dict[str, list[PartName]] = defaultdict(list)
    folder = join(out, "masks") + "/"
    for info in store.walk(folder):
        if (name := PartName.parse(info.uri.removeprefix(folder))) is not None:
            found[name.source].append(name)
    for names in found.values():
        names.sort()
    return found


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
    """What a part says of itself, in the key `maskfleet` of its Parquet metadata, as JSON.

    source: {uri, size, version}. histograms: int64 (C, 256). images_by_class, pixels_by_class: (C,), of the
    stored masks. digest: this part's share of `labels_digest`. after: where in the source to go on.
    broken: does the last row stand for a shard that breaks off?
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
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FOOTER_FORMAT

    @property
    def name(self) -> PartName:
        """The name that this part must have."""
        source = source_digest(self.source["uri"], self.source["size"], self.source["version"])
        return PartName(source, self.first, self.rows, self.last)

    def to_json(self) -> str:
        """The same text for the same part, wherever it is made."""
        values = asdict(self)
        packed = zlib.compress(self.histograms.astype("<i8").tobytes())  # level 9 takes 20 ms and saves nothing
        values["histograms"] = base64.b64encode(packed).decode()
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: bytes | str) -> "PartFooter":
        """Raises `Damaged` where the text is not a footer."""
        try:
            values = json.loads(text)
            histogram = np.frombuffer(zlib.decompress(base64.b64decode(values["histograms"])), "<i8").reshape(-1, 256)
            values["histograms"] = histogram
            values["failures"] = tuple(Failure(**failure) for failure in values["failures"])
            values["after"] = Cursor(**values["after"])
            values["images_by_class"] = tuple(values["images_by_class"])
            values["pixels_by_class"] = tuple(values["pixels_by_class"])
            footer = cls(**values)
            _ = footer.name  # the source must be whole, too
            return footer
        except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as error:
            raise Damaged(f"the footer of a part cannot be read: {error}") from error


def part_bytes(rows: Sequence[dict[str, object]], footer: PartFooter, *, confidence_map: bool) -> bytes:
    """The Parquet file of a part: the same bytes for the same rows and footer."""
    schema = masks_schema(confidence_map=confidence_map)
    schema = schema.with_metadata({**(schema.metadata or {}), FOOTER_KEY: footer.to_json()})
    return _parquet(pa.Table.from_pylist(list(rows), schema=schema))


def failures_bytes(footer: PartFooter) -> bytes:
    """`failures/<part>`: what the footer says, as a table."""
    return _parquet(pa.Table.from_pylist([asdict(failure) for failure in footer.failures], schema=FAILURES))


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, store_schema=True)
    return bytes(sink.getvalue())


def read_footer(store: Store, out: str, name: PartName) -> PartFooter:
    """The footer of a committed part, by reading the end of the file. Raises `Damaged`."""
    info = store.stat(join(out, "masks", str(name)))
    with RangeFile(store, ObjectInfo(info.uri, info.size, info.version), 256 << 10, ahead=False) as file:
        try:
            metadata = pq.read_metadata(pa.PythonFile(file, mode="r")).metadata or {}
        except (pa.ArrowException, OSError, ValueError) as error:  # damaged names of columns are no UTF-8
            if file.failure is not None:
                raise file.failure from error
            raise Damaged(f"masks/{name}: {str(error).splitlines()[0]}") from error
    if FOOTER_KEY not in metadata:
        raise Damaged(f"masks/{name}: no footer of maskfleet")
    footer = PartFooter.from_json(metadata[FOOTER_KEY])
    try:
        says = footer.name
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"masks/{name}: its footer names no source") from error
    if says != name:
        raise Damaged(f"masks/{name}: its footer says that it is {says}")
    return footer


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
