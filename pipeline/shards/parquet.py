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

BATCH_ROWS = 1  # a bomb is unpacked a row at a time; batches of 32 would save 15 microseconds a row
_BUFFER_BYTES = 4 << 20
_MIN_ROWS = 1_000_000  # that any file may have: nulls and repetitions take next to nothing


class MoreRowsThanBytes(pa.ArrowInvalid):  # type: ignore[misc]
    """A footer with so many rows that most can be no images: each would be a failure."""


def is_image_type(kind: pa.DataType) -> bool:
    """Binary, or the struct `{bytes, path}` of the Hugging Face `Image` feature."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def image_column(schema: pa.Schema, wanted: str | None) -> str:
    """The name of the image column. Raises `UsageError` where there is none, a choice to make, or two of that name."""
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
    """The name, if one column has it. Raises `UsageError`: which of two is meant nobody can tell."""
    if (count := schema.names.count(name)) > 1:
        raise UsageError(f"{count} columns {name!r} in the Parquet shard: rename one")
    return name


def open_parquet(file: RangeFile) -> pq.ParquetFile:
    """A Parquet file over range reads; pages are checked against their checksums where they have some.

    Raises `pa.ArrowException`, `OSError` or `ValueError` (damaged names of columns are no UTF-8).
    """
    size = file.seek(0, io.SEEK_END)
    parquet = pq.ParquetFile(
        pa.PythonFile(file, mode="r"), buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
    )
    metadata = parquet.metadata
    if sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)) != metadata.num_rows:
        raise pa.ArrowInvalid("the row groups of the footer do not add up")  # it has no checksum of its own
    if metadata.num_rows > max(_MIN_ROWS, size):
        raise MoreRowsThanBytes(f"{metadata.num_rows} rows in {size} bytes")
    return parquet


def read_parquet(
    store: Store, shard: SourceObject, start: Cursor, options: ReadOptions, given_up: str | None = None
) -> Iterator[EncodedImage]:
    """The images of a Parquet shard from row `start.index` on. Storage errors are raised, and `MemoryError`.

    given_up: why the row group of `start` is not unpacked: its rows from there on fail, as if it were damaged.
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
        except MemoryError:  # of Arrow, too: says nothing of the file
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
    """Where row groups begin, from the footer: each with the byte at about which it lies, if all rows are alike.

    One start where the footer cannot be read. Raises `StorageError`.
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
    """The encoded images of single rows. Rows of a row group in their order are unpacked once; not for two threads at a time.

    Holds a chunk of the file and about a page. Raises `UsageError` and what `open_parquet` does.
    """

    def __init__(self, store: Store, info: ObjectInfo, column: str | None) -> None:
        self.info = info
        self._parquet = open_parquet(RangeFile(store, info, ahead=False))
        self._column = image_column(self._parquet.schema_arrow, column)
        self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._next = 0  # row that the next batch begins with

    def read(self, index: int) -> bytes:
        """Of one row. Raises `MissingImage`, `IndexError`, and what Arrow raises for damage."""
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
            del read, batch  # else the last image lies in memory beside the next
        if index < end:  # page headers have no checksum
            raise pa.ArrowInvalid(f"{end - index} rows fewer than the footer says")
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        _raise_storage_failure(file)
        yield from _damaged(shard, group, range(max(index, wanted), end), _first_line(error))  # the batch, and what is behind it


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["unreadable"])[0]


def _damaged(shard: SourceObject, group: int, rows: range, reason: str) -> Iterator[EncodedImage]:
    """The last rows of a row group, which cannot be read."""
    file_name = base_name(shard.uri)
    for row in rows:
        yield EncodedImage(
            shard=shard.uri, index=row, image_id=f"{file_name}#{row}", after=Cursor(row + 1),
            error=DamagedRowGroup(f"row group {group} is damaged: {reason}"), ends_part=row == rows[-1],
        )  # fmt: skip


def _value(value: pa.Scalar) -> tuple[pa.Buffer | None, str | None]:
    """Bytes, not copied yet, and path of a cell."""
    if not value.is_valid:
        return None, None
    if pa.types.is_struct(value.type):
        has_path = value.type.get_field_index("path") >= 0 and value["path"].is_valid and _is_text(value["path"].type)
        return value["bytes"].as_buffer(), _text(value["path"]) if has_path else None
    return value.as_buffer(), None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _text(value: pa.Scalar) -> str:
    """A cell as text; what is no UTF-8 in it is replaced."""
    return value.as_buffer().to_pybytes().decode("utf-8", "replace") if _is_text(value.type) else str(value.as_py())


def _id(value: pa.Scalar | None, row: str) -> str:
    """A cell of the id column as text; `row` if it is null, or nothing that Python has a value for, such as the year 10,000."""
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
    """Arrow reports its own errors; a failure of the store behind one is not damage."""
    if file.failure is not None:
        raise file.failure
