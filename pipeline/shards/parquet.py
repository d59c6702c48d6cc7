"""Parquet shards with a column of encoded images, read row group by row group, in small batches."""

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import BrokenShard, DamagedRowGroup, ImageTooLarge, MissingImage, UsageError
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject, seen
from pipeline.shards.range_file import RangeFile
from pipeline.storage import base_name
from pipeline.storage.base import ObjectInfo, Store

BATCH_ROWS = 1  # one bomb in memory at a time; batches of 32 would save 15 microseconds per row
_BUFFER_BYTES = 4 << 20
_MIN_ROWS = 1_000_000  # any file may have so many rows: nulls and repetitions take next to no bytes


class MoreRowsThanBytes(pa.ArrowInvalid):  # type: ignore[misc]
    """The footer says more rows than the file has bytes: most rows can be no images, and each would be a failure."""


def is_image_type(kind: pa.DataType) -> bool:
    """Is it binary, or the struct `{bytes, path}` of the Hugging Face `Image` feature?"""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def image_column(schema: pa.Schema, wanted: str | None) -> str:
    """The name of the image column. Raises `UsageError` if there is none, if several could be it, or if two have the name."""
    candidates = [field.name for field in schema if is_image_type(field.type)]
    if wanted is not None:
        if wanted in candidates:
            return _only(schema, wanted)
        raise UsageError(f"no image column {wanted!r}; columns with binary data: {', '.join(candidates) or 'none'}")
    if "image" in candidates:
        return _only(schema, "image")
    if len(candidates) == 1:
        return _only(schema, candidates[0])
    choice = f"several ({', '.join(candidates)}): choose one with --image-column" if candidates else "none"
    raise UsageError(f"image columns (binary, or struct with 'bytes') in the Parquet shard: {choice}")


def _only(schema: pa.Schema, name: str) -> str:
    """The name, if only one column has it. Raises `UsageError` if two have it: nobody can tell which of them is meant."""
    if (count := schema.names.count(name)) > 1:
        raise UsageError(f"{count} columns {name!r} in the Parquet shard: rename one")
    return name


def open_parquet(file: RangeFile) -> pq.ParquetFile:
    """A Parquet file over range reads. Pages that have checksums are checked.

    Raises `pa.ArrowException`, `OSError` or `ValueError` (if damaged column names are no UTF-8).
    """
    size = file.seek(0, io.SEEK_END)
    parquet = pq.ParquetFile(
        pa.PythonFile(file, mode="r"), buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
    )
    metadata = parquet.metadata
    if sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)) != metadata.num_rows:
        raise pa.ArrowInvalid("the row groups of the footer do not add up")  # a footer has no checksum
    if metadata.num_rows > max(_MIN_ROWS, size):
        raise MoreRowsThanBytes(f"{metadata.num_rows} rows in {size} bytes")
    return parquet


def read_parquet(
    store: Store, shard: SourceObject, start: Cursor, options: ReadOptions, given_up: str | None = None
) -> Iterator[EncodedImage]:
    """The images of a Parquet shard from row `start.index` on. Raises storage errors and `MemoryError`.

    given_up: None, or the reason why the row group of `start` is not unpacked. Its rows from `start` on then fail as damaged.
    """
    shard = seen(store, shard)
    assert shard.size is not None
    info = ObjectInfo(shard.fetch_uri, shard.size, shard.version)
    file_name = base_name(shard.uri)
    with RangeFile(store, info) as file:
        try:
            parquet = open_parquet(file)
            column = image_column(parquet.schema_arrow, options.image_column)
            if options.id_column is not None and (named := parquet.schema_arrow.names.count(options.id_column)) != 1:
                raise UsageError(f"{'two columns' if named else 'no id column'} {options.id_column!r}")
        except MemoryError:  # also raised by Arrow; it says nothing about the file
            raise
        except (pa.ArrowException, OSError, ValueError, UsageError) as error:
            _raise_storage_failure(file)
            reason = str(error) if isinstance(error, UsageError | MoreRowsThanBytes) else "no Parquet footer"
            yield EncodedImage(
                shard=shard.uri, index=start.index, image_id=f"{shard.uri}#{start.index}", after=start,
                error=BrokenShard(reason), truncated=True,
            )  # fmt: skip
            return
        first = 0
        for group in range(parquet.metadata.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if first + rows > start.index and rows:
                if given_up is None:
                    yield from _row_group(file, parquet, group, first, rows, start.index, column, file_name, shard, options)
                else:
                    yield from _damaged(shard, group, range(max(first, start.index), first + rows), given_up)
                    given_up = None
            first += rows


def row_group_starts(store: Store, shard: SourceObject) -> list[tuple[Cursor, int]]:
    """Where row groups begin, from the footer: each with its byte offset, estimated as if all rows had the same size.

    Only the start of the file if the footer cannot be read. Raises `StorageError`.
    """
    shard = seen(store, shard)
    assert shard.size is not None
    with RangeFile(store, ObjectInfo(shard.fetch_uri, shard.size, shard.version), ahead=False) as file:
        try:
            metadata = open_parquet(file).metadata
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError):
            _raise_storage_failure(file)
            return [(Cursor(), 0)]
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    starts, all_rows = zip(accumulate(rows, initial=0), rows, strict=False), max(1, sum(rows))
    return [(Cursor(first), shard.size * first // all_rows) for first, count in starts if count] or [(Cursor(), 0)]


class ParquetRows:
    """The encoded images of single rows. Rows of a row group that are read in order are unpacked once. Not thread-safe.

    Holds a chunk of the file and about a page in memory. Raises `UsageError`, and the errors of `open_parquet`.
    """

    def __init__(self, store: Store, info: ObjectInfo, column: str | None) -> None:
        self.info = info
        self._parquet = open_parquet(RangeFile(store, info, ahead=False))
        self._column = image_column(self._parquet.schema_arrow, column)
        self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._next = 0  # the first row of the next batch

    def read(self, index: int) -> bytes:
        """The encoded image of one row. Raises `MissingImage`, `IndexError`, and Arrow's errors if the file is damaged."""
        group, first = self._group_of(index)
        if group != self._group or index < self._next:
            self._batches = self._parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=[self._column])
            self._group, self._next = group, first
        for batch in self._batches:
            first, self._next = self._next, self._next + batch.num_rows
            if index < self._next:
                cell, _ = _value(batch.column(0)[index - first])
                if cell is None:
                    raise MissingImage("the image is null")
                return bytes(cell.to_pybytes())
        raise IndexError("no such row")

    def _group_of(self, index: int) -> tuple[int, int]:
        """The row group of a row, and its first row."""
        metadata, first = self._parquet.metadata, 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if index < first + rows:
                return group, first
            first += rows
        raise IndexError("no such row")


def _row_group(
    file: RangeFile, parquet: pq.ParquetFile, group: int, first: int, rows: int, wanted: int,
    column: str, file_name: str, shard: SourceObject, options: ReadOptions,
) -> Iterator[EncodedImage]:  # fmt: skip
    columns = [column] if options.id_column in (None, column) else [column, str(options.id_column)]
    index, end = first, first + rows
    try:
        for read in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
            batch = read.slice(0, end - index)
            if index + batch.num_rows > wanted:
                values = batch.column(batch.schema.get_field_index(column))
                ids = None if options.id_column is None else batch.column(batch.schema.get_field_index(options.id_column))
                for offset, value in enumerate(values):
                    if index + offset >= wanted:
                        image_id = _id(None if ids is None else ids[offset], f"{file_name}#{index + offset}")
                        yield _image(shard, index + offset, image_id, value, options, last_of_group=index + offset == end - 1)
                    del value
                del values, ids
            index += batch.num_rows
            del read, batch  # else the last image stays in memory beside the next one
        if index < end:  # page headers have no checksum
            raise pa.ArrowInvalid(f"{end - index} rows fewer than the footer says")
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        _raise_storage_failure(file)
        yield from _damaged(shard, group, range(max(index, wanted), end), _first_line(error))  # this batch and all after it


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["unreadable"])[0]


def _damaged(shard: SourceObject, group: int, rows: range, reason: str) -> Iterator[EncodedImage]:
    """One failure for each of the last rows of a damaged row group."""
    file_name = base_name(shard.uri)
    for row in rows:
        yield EncodedImage(
            shard=shard.uri, index=row, image_id=f"{file_name}#{row}", after=Cursor(row + 1),
            error=DamagedRowGroup(f"row group {group} is damaged: {reason}"), ends_part=row == rows[-1],
        )  # fmt: skip


def _value(value: pa.Scalar) -> tuple[pa.Buffer | None, str | None]:
    """Bytes and path of a cell; the bytes are a view, not a copy."""
    if not value.is_valid:
        return None, None
    if pa.types.is_struct(value.type):
        has_path = value.type.get_field_index("path") >= 0 and value["path"].is_valid and _is_text(value["path"].type)
        return value["bytes"].as_buffer(), _text(value["path"]) if has_path else None
    return value.as_buffer(), None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _text(value: pa.Scalar) -> str:
    """A cell as text; bytes that are no UTF-8 are replaced."""
    return value.as_buffer().to_pybytes().decode("utf-8", "replace") if _is_text(value.type) else str(value.as_py())


def _id(value: pa.Scalar | None, row: str) -> str:
    """A cell of the id column as text; `row` if it is null, or has no value in Python, such as the year 10,000."""
    if value is None or not value.is_valid:
        return row
    try:
        return _text(value)
    except MemoryError:
        raise
    except (pa.ArrowException, ArithmeticError, LookupError, TypeError, ValueError):
        return row


def _image(
    shard: SourceObject, index: int, image_id: str, value: pa.Scalar, options: ReadOptions, *, last_of_group: bool
) -> EncodedImage:
    cell, path = _value(value)
    image = EncodedImage(
        shard=shard.uri, index=index, image_id=image_id, after=Cursor(index + 1),
        bytes_length=None if cell is None else cell.size, member=path, ends_part=last_of_group,
    )  # fmt: skip
    if cell is None:
        return replace(image, error=MissingImage("the image is null" if path is None else "only a path, no bytes"))
    if cell.size > options.max_encoded_bytes:
        return replace(image, error=ImageTooLarge(f"{cell.size} bytes encoded; the limit is {options.max_encoded_bytes}"))
    return replace(image, data=cell.to_pybytes())


def _raise_storage_failure(file: RangeFile) -> None:
    """Raise the storage error behind an error of Arrow, if there is one: the file is not damaged then."""
    if file.failure is not None:
        raise file.failure
