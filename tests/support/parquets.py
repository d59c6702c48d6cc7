"""Parquet shards as bytes, whole and broken, equal in every run."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.images import SEED, jpeg

if TYPE_CHECKING:
    from collections.abc import Sequence

Layout = Literal["binary", "large_binary", "struct"]
_MAGIC_AND_LENGTH: Final = 8


@dataclass(frozen=True, slots=True)
class ParquetCase:
    """One Parquet file: the number of rows in its footer, and which rows hold no image or cannot be read."""

    name: str
    data: bytes
    rows: int
    missing: tuple[int, ...] = ()
    unreadable: tuple[int, ...] = ()
    footer: bool = True


def parquet_bytes(
    images: Sequence[bytes | None],
    *,
    layout: Layout = "binary",
    column: str = "image",
    ids: Sequence[str] | None = None,
    row_group_rows: int = 4,
) -> bytes:
    """Write an image column, and an `id` column if asked; pages carry checksums."""
    columns: dict[str, pa.Array[Any]] = {}
    if ids is not None:
        columns["id"] = pa.array(ids, pa.string())
    columns[column] = _column(images, layout)
    table = pa.table(columns)
    if layout == "struct":
        feature = {"info": {"features": {column: {"_type": "Image"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=row_group_rows,
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return buffer.getvalue()


def large_row_parquet(size: int) -> bytes:
    """A row group of two images and a row of `size` zeros, which take a few kilobytes; then a row group of two images."""
    images = [pa.array([jpeg(SEED + number)], pa.binary()) for number in range(4)]
    zeros = pa.array([bytes(size)], pa.binary())
    buffer, schema = io.BytesIO(), pa.schema({"image": pa.binary()})
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "data_page_size": 1, "write_batch_size": 1}
    with pq.ParquetWriter(buffer, schema, **options) as writer:
        for pieces in ([*images[:2], zeros], images[2:]):
            writer.write_table(pa.table({"image": pa.chunked_array(pieces)}))
    return buffer.getvalue()


def without_footer(data: bytes) -> bytes:
    """Cut the footer off, like an upload that broke off."""
    length = int.from_bytes(data[-_MAGIC_AND_LENGTH:-4], "little")
    return data[: -(_MAGIC_AND_LENGTH + length)]


def damaged_pages(data: bytes, row_group: int, column: str = "image") -> bytes:
    """Flip bytes of image data in one row group: only the checksum of the page shows it."""
    start, length = _chunk(data, row_group, column)
    return _flipped(data, start + length // 2, 16)


def damaged_page_header(data: bytes, row_group: int, column: str = "image") -> bytes:
    """Flip the first page header of one row group: any reader fails."""
    start, _ = _chunk(data, row_group, column)
    return _flipped(data, start, 16)


def parquets() -> dict[str, ParquetCase]:
    """Every case by its name. Row groups have four rows."""
    ten = [jpeg(SEED + number) for number in range(10)]
    names = [f"photo-{number}" for number in range(10)]
    holes = [None if number in {1, 4, 5, 6, 7} else image for number, image in enumerate(ten)]
    whole = parquet_bytes(ten)
    second_group = (4, 5, 6, 7)
    cases = [
        ParquetCase("binary.parquet", whole, 10),
        ParquetCase("large_binary.parquet", parquet_bytes(ten, layout="large_binary"), 10),
        ParquetCase("struct.parquet", parquet_bytes(ten, layout="struct"), 10),
        ParquetCase("ids.parquet", parquet_bytes(ten, ids=names), 10),
        ParquetCase("one_row_group.parquet", parquet_bytes(ten, row_group_rows=10), 10),
        ParquetCase("nulls.parquet", parquet_bytes(holes), 10, missing=(1, *second_group)),
        ParquetCase("nulls_struct.parquet", parquet_bytes(holes, layout="struct"), 10, missing=(1, *second_group)),
        ParquetCase("no_rows.parquet", parquet_bytes([]), 0),
        ParquetCase("no_footer.parquet", without_footer(whole), 0, footer=False),
        ParquetCase("half.parquet", whole[: len(whole) // 2], 0, footer=False),
        ParquetCase("zero_bytes.parquet", b"", 0, footer=False),
        ParquetCase("damaged_pages.parquet", damaged_pages(whole, 1), 10, unreadable=second_group),
        ParquetCase("damaged_page_header.parquet", damaged_page_header(whole, 1), 10, unreadable=second_group),
    ]
    return {case.name: case for case in cases}


def _column(images: Sequence[bytes | None], layout: Layout) -> pa.Array[Any]:
    if layout == "binary":
        return pa.array(images, pa.binary())
    if layout == "large_binary":
        return pa.array(images, pa.large_binary())
    # Missing images are null structs and structs with null bytes, in turn: real files have both.
    rows = [
        None if image is None and number % 2 else {"bytes": image, "path": f"{number:04}.jpg"}
        for number, image in enumerate(images)
    ]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def _chunk(data: bytes, row_group: int, column: str) -> tuple[int, int]:
    """Offset and length of the pages of a column in one row group."""
    group = pq.read_metadata(io.BytesIO(data)).row_group(row_group)
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema in {column, f"{column}.bytes"}:
            return chunk.data_page_offset, chunk.total_compressed_size
    raise ValueError(f"no column {column!r}")


def _flipped(data: bytes, start: int, length: int) -> bytes:
    flipped = bytes(byte ^ 0xFF for byte in data[start : start + length])
    return data[:start] + flipped + data[start + length :]
