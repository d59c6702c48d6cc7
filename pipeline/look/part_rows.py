"""Reads rows of parts by column: only the footer of a part and the pages of the wanted columns are read."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import Damaged
from pipeline.output.parts import PartName
from pipeline.schema import masks_schema
from pipeline.shards.parquet import open_parquet
from pipeline.shards.range_file import RangeFile
from pipeline.storage import ObjectInfo, Store, join

_FOOTER_CHUNK = 64 << 10  # bytes per request: footers and columns of numbers are small
_MASKS_CHUNK = 1 << 20  # bytes per request
_BATCH_ROWS = 16  # memory holds so many masks at a time


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """The place of a row: its part, and its position in the file from 0."""

    part: PartName
    row: int


@dataclass(frozen=True, slots=True)
class PartRows:
    """Reads the parts of one run. Raises `Damaged` for a file that is no part of this run, `StorageError` for store errors."""

    store: Store
    out: str
    confidence_map: bool

    def count(self, part: PartName) -> int:
        """How many rows the file has: its masks, without its failures."""
        with self._opened(part, _FOOTER_CHUNK) as parquet:
            return int(parquet.metadata.num_rows)

    def columns(self, part: PartName, names: Sequence[str]) -> pa.Table:
        """These columns, of all rows of a part."""
        with self._opened(part, _FOOTER_CHUNK) as parquet:
            return self._checked(parquet.read(columns=list(names)), names)

    def rows(self, places: Iterable[Place]) -> dict[Place, dict[str, Any]]:
        """Whole rows by place. Each part is opened once, and read no further than its last wanted row."""
        found: dict[Place, dict[str, Any]] = {}
        for part, wanted in groupby(sorted(places), attrgetter("part")):
            found |= dict(self._rows_of(part, {place.row for place in wanted}))
        return found

    def _rows_of(self, part: PartName, wanted: set[int]) -> Iterator[tuple[Place, dict[str, Any]]]:
        names = masks_schema(confidence_map=self.confidence_map).names
        with self._opened(part, _MASKS_CHUNK) as parquet:
            first = 0
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=names):
                inside = sorted(row - first for row in wanted if first <= row < first + len(batch))
                rows = self._checked(pa.Table.from_batches([batch]), names).take(inside).to_pylist() if inside else []
                yield from ((Place(part, first + row), values) for row, values in zip(inside, rows, strict=True))
                first += len(batch)
                if first > max(wanted):
                    return

    def _checked(self, table: pa.Table, names: Sequence[str]) -> pa.Table:
        """The table with the column types that this version writes."""
        schema = masks_schema(confidence_map=self.confidence_map)
        if missing := ", ".join(name for name in names if name not in table.column_names):
            raise pa.ArrowInvalid(f"no column {missing}")
        return table.select(list(names)).cast(pa.schema([schema.field(name) for name in names]))

    @contextmanager
    def _opened(self, part: PartName, chunk_bytes: int) -> Iterator[pq.ParquetFile]:
        info = ObjectInfo(join(self.out, "masks", str(part)), part.size, part.version or None)
        with RangeFile(self.store, info, chunk_bytes, ahead=False) as file:
            try:
                yield open_parquet(file)
            except MemoryError:
                raise
            except (pa.ArrowException, OSError, ValueError, io.UnsupportedOperation) as error:
                if file.failure is not None:
                    raise file.failure from error
                raise Damaged(f"masks/{part} cannot be read ({error}): `verify {self.out}` says what to do") from error
