"""Parquet shards: whole, with holes, damaged; from any row; ids and image columns."""

import io
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import MissingImage, StorageError, UsageError
from pipeline.shards import parquet as parquet_module
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.parquet import ParquetRows, image_column, is_image_type, read_parquet, row_group_starts
from pipeline.shards.range_file import RangeFile
from pipeline.storage.base import ObjectInfo
from tests.conftest import ROOT
from tests.support.corpus import damaged_pages, parquet_bytes, parquets
from tests.support.images import SEED, jpeg
from tests.support.memory import MemoryStore, short_of_memory
from tests.support.parquets import large_row_parquet

CASES = parquets()
TEN = [jpeg(SEED + number) for number in range(10)]
URI = "memory/x.parquet"


def _shard(data: bytes) -> SourceObject:
    return SourceObject(uri=URI, kind="parquet", size=len(data), version=None)


def _read(data: bytes, first: int = 0, **options: str) -> list[EncodedImage]:
    return list(read_parquet(MemoryStore(data), _shard(data), Cursor(first), ReadOptions(**options)))  # type: ignore[arg-type]


def _read_lazily(data: bytes) -> Iterator[EncodedImage]:
    return read_parquet(MemoryStore(data), _shard(data), Cursor(), ReadOptions())


def _facts(image: EncodedImage) -> tuple[object, ...]:
    error = None if image.error is None else (image.error.kind, image.error.message)
    return (image.index, image.image_id, image.member, image.data, image.after, image.ends_part, image.truncated, error)


@pytest.mark.parametrize("name", CASES)
def test_the_corpus(name: str) -> None:
    case = CASES[name]
    found = _read(case.data)
    if not case.footer:
        (row,) = found
        assert (row.truncated, row.index, row.image_id) == (True, 0, f"{URI}#0")
        assert row.error is not None
        assert (row.error.kind, row.error.stage) == ("BrokenShard", "read")
        return
    assert [image.index for image in found] == list(range(case.rows))
    assert not any(image.truncated for image in found)
    for image in found:
        if image.index in case.missing:
            assert isinstance(image.error, MissingImage)
            assert image.data is None
        elif image.index in case.unreadable:
            assert image.error is not None
            assert image.error.kind == "DamagedRowGroup"
            assert "row group 1" in image.error.message
        else:
            assert image.error is None
            assert image.data == TEN[image.index]
            assert image.bytes_length == len(TEN[image.index])
        assert (image.offset, image.length) == (None, None)


@pytest.mark.parametrize("name", CASES)
def test_reading_goes_on_at_any_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "BATCH_ROWS", 3)  # so that batches begin and end inside row groups
    data = CASES[name].data
    whole = [_facts(image) for image in _read(data)]
    for first in range(len(whole) if CASES[name].footer else 0):
        assert [_facts(image) for image in _read(data, first)] == whole[first:]


def test_parts_end_with_row_groups() -> None:
    assert [image.index for image in _read(CASES["binary.parquet"].data) if image.ends_part] == [3, 7, 9]
    assert [image.index for image in _read(CASES["damaged_pages.parquet"].data) if image.ends_part] == [3, 7, 9]
    assert [image.index for image in _read(CASES["one_row_group.parquet"].data) if image.ends_part] == [9]


def test_damage_in_a_later_batch_fails_the_rest_of_its_group_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "BATCH_ROWS", 2)
    column = pa.array(TEN, pa.binary())
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"image": column}), buffer, row_group_size=6, compression="none", use_dictionary=False,
        write_statistics=False, write_page_checksum=True, data_page_size=1, write_batch_size=1,
    )  # fmt: skip
    data = buffer.getvalue()
    at = data.index(TEN[3]) + 100
    found = _read(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
    kinds = [None if image.error is None else image.error.kind for image in found]
    assert [image.index for image in found] == list(range(10))
    assert kinds[6:] == [None] * 4
    assert kinds[3:6] == ["DamagedRowGroup"] * 3
    assert None in kinds[:2]


def test_empty_row_groups_are_passed() -> None:
    buffer = io.BytesIO()
    table = pa.table({"image": pa.array(TEN[:2], pa.binary())})
    with pq.ParquetWriter(buffer, table.schema) as writer:
        for piece in (table.slice(0, 0), table.slice(0, 1), table.slice(0, 0), table.slice(1, 1)):
            writer.write_table(piece)
    data = buffer.getvalue()
    assert [image.index for image in _read(data)] == [0, 1]
    assert row_group_starts(MemoryStore(data), _shard(data)) == [(Cursor(0), 0), (Cursor(1), len(data) // 2)]


def test_ids() -> None:
    data = CASES["ids.parquet"].data
    assert [image.image_id for image in _read(data)] == [f"x.parquet#{row}" for row in range(10)]
    assert [image.image_id for image in _read(data, id_column="id")] == [f"photo-{row}" for row in range(10)]
    assert _read(data, 5, id_column="id")[0].image_id == "photo-5"


def test_a_path_in_the_struct_is_the_member() -> None:
    assert [image.member for image in _read(CASES["struct.parquet"].data)][:2] == ["0000.jpg", "0001.jpg"]
    assert [image.member for image in _read(CASES["binary.parquet"].data)][:2] == [None, None]


@pytest.mark.parametrize("options", [{"image_column": "nope"}, {"id_column": "nope"}, {"image_column": "id"}])
def test_a_shard_without_the_column_is_broken(options: dict[str, str]) -> None:
    (row,) = _read(CASES["ids.parquet"].data, 0, **options)
    assert row.truncated
    assert "column" in str(row.error)


def test_too_many_bytes_are_a_failure_of_the_row() -> None:
    data = parquet_bytes([b"x" * 10, b"y" * 11, b"z" * 10])
    found = list(read_parquet(MemoryStore(data), _shard(data), Cursor(), ReadOptions(max_encoded_bytes=10)))
    assert [None if image.error is None else image.error.kind for image in found] == [None, "ImageTooLarge", None]
    assert (found[1].data, found[1].bytes_length) == (None, 11)


def test_row_group_starts() -> None:
    for name, starts in (("binary.parquet", [0, 4, 8]), ("no_rows.parquet", [0]), ("no_footer.parquet", [0])):
        data = CASES[name].data
        assert [start.index for start, _ in row_group_starts(MemoryStore(data), _shard(data))] == starts


def test_a_failing_store_is_no_damage() -> None:
    """Neither in the pages of a row group nor in the footer."""
    data = CASES["binary.parquet"].data
    pages = pq.read_metadata(io.BytesIO(data)).row_group(1).column(0).data_page_offset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_module, "RangeFile", partial(RangeFile, chunk_bytes=512))
        with pytest.raises(StorageError, match="reset"):
            list(read_parquet(MemoryStore(data, range(pages, pages + 1)), _shard(data), Cursor(), ReadOptions()))
        broken_footer = MemoryStore(data, range(len(data) - 10, len(data)))
        with pytest.raises(StorageError, match="reset"):
            list(read_parquet(broken_footer, _shard(data), Cursor(), ReadOptions()))
        with pytest.raises(StorageError, match="reset"):
            row_group_starts(broken_footer, _shard(data))


def test_one_row_by_itself() -> None:
    for name in ("binary.parquet", "struct.parquet", "one_row_group.parquet"):
        data = CASES[name].data
        info = ObjectInfo(URI, len(data), None)
        assert [ParquetRows(MemoryStore(data), info, None).read(row) for row in (0, 3, 4, 9)] == [
            TEN[row] for row in (0, 3, 4, 9)
        ]
        with pytest.raises(IndexError):
            ParquetRows(MemoryStore(data), info, None).read(10)
    data = CASES["nulls.parquet"].data
    with pytest.raises(MissingImage):
        ParquetRows(MemoryStore(data), ObjectInfo(URI, len(data), None), None).read(1)


def test_rows_far_into_a_row_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "BATCH_ROWS", 3)
    data = CASES["one_row_group.parquet"].data
    info = ObjectInfo(URI, len(data), None)
    assert [ParquetRows(MemoryStore(data), info, None).read(row) for row in range(10)] == TEN


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])])
def test_image_types(kind: pa.DataType) -> None:
    assert is_image_type(kind)
    assert image_column(pa.schema([("id", pa.string()), ("photo", kind)]), None) == "photo"


@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.binary()), pa.struct([("path", pa.string())]), pa.int64()])
def test_other_types(kind: pa.DataType) -> None:
    assert not is_image_type(kind)
    with pytest.raises(UsageError, match="none"):
        image_column(pa.schema([("image", kind)]), None)


def test_which_column() -> None:
    two = pa.schema([("a", pa.binary()), ("b", pa.binary())])
    with pytest.raises(UsageError, match=r"several.*a, b.*--image-column"):
        image_column(two, None)
    assert image_column(two, "b") == "b"
    assert image_column(two.append(pa.field("image", pa.binary())), None) == "image"
    with pytest.raises(UsageError, match=r"'c'.*a, b"):
        image_column(two, "c")


def test_checksums_are_what_finds_flipped_pixels() -> None:
    """Without the check these bytes would be labelled as if they were sound."""
    sound = CASES["binary.parquet"].data
    assert damaged_pages(sound, 1) != sound
    assert pq.read_table(io.BytesIO(damaged_pages(parquet_bytes(TEN, row_group_rows=4), 1))).num_rows == 10


@given(at=st.integers(0), bits=st.integers(1, 255), in_footer=st.booleans())
def test_any_flipped_byte_ends_in_rows_or_a_break(at: int, bits: int, in_footer: bool) -> None:
    data = bytearray(parquet_bytes([b"one", b"two", None, b"four"], ids=["1", "2", "3", "4"], row_group_rows=2))
    footer = int.from_bytes(data[-8:-4], "little") + 8
    data[len(data) - 1 - at % (footer if in_footer else len(data))] ^= bits
    found = _read(bytes(data), id_column="id")
    assert [image.index for image in found] == list(range(len(found)))
    row_group_starts(MemoryStore(bytes(data)), _shard(bytes(data)))


def test_rows_that_a_damaged_page_header_hides_are_failures() -> None:
    """Arrow reads fewer rows than the footer says, and finds nothing wrong with it."""
    sound = parquet_bytes([b"one", b"two", None, b"four"], row_group_rows=2)
    hidden = 0
    for at in range(4, pq.read_metadata(io.BytesIO(sound)).row_group(1).column(0).data_page_offset):
        for bits in (1, 2):
            data = bytearray(sound)
            data[at] ^= bits
            found = _read(bytes(data))
            assert [image.index for image in found] == [0, 1, 2, 3]
            hidden += any("fewer than the footer says" in str(image.error) for image in found)
    assert hidden


def test_a_footer_whose_row_groups_do_not_add_up_is_broken() -> None:
    class _Metadata:
        num_row_groups, num_rows = 0, 4

    class _Parquet:
        metadata = _Metadata()

    data = CASES["binary.parquet"].data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pq, "ParquetFile", lambda *_, **__: _Parquet())
        (row,) = _read(data)
        assert row.truncated
        assert row_group_starts(MemoryStore(data), _shard(data)) == [(Cursor(), 0)]


def test_ids_that_are_null_numbers_or_no_utf_8() -> None:
    buffer = io.BytesIO()
    names = pa.Array.from_buffers(pa.string(), 3, pa.array([b"caf\xe9", None, b"b"], pa.binary()).buffers())
    pq.write_table(pa.table({"image": [b"1", b"2", b"3"], "name": names, "number": [7, None, 9]}), buffer)
    assert [image.image_id for image in _read(buffer.getvalue(), id_column="name")] == ["caf\ufffd", "x.parquet#1", "b"]
    assert [image.image_id for image in _read(buffer.getvalue(), id_column="number")] == ["7", "x.parquet#1", "9"]


def test_paths_that_are_null_or_no_utf_8() -> None:
    paths = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", None], pa.binary()).buffers())
    column = pa.StructArray.from_arrays([pa.array([b"1", b"2"], pa.binary()), paths], ["bytes", "path"])
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": column}), buffer)
    assert [(image.member, image.data) for image in _read(buffer.getvalue())] == [("caf\ufffd", b"1"), (None, b"2")]


_BOMB = """
import sys, pyarrow as pa
from pipeline.shards.base import Cursor, ReadOptions, SourceObject
from pipeline.shards.parquet import read_parquet
from pipeline.storage import store_for
store = store_for(sys.argv[1])
info = store.stat(sys.argv[1])
shard = SourceObject(uri=info.uri, kind="parquet", size=info.size, version=info.version)
found = list(read_parquet(store, shard, Cursor(), ReadOptions(max_encoded_bytes=1 << 20)))
print(len(found), {image.error.kind for image in found}, pa.default_memory_pool().max_memory() >> 20)
"""


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_bomb_is_unpacked_a_row_at_a_time(tmp_path: Path, dictionary: bool) -> None:
    """24 rows of 64 MiB of zeros in a few kilobytes: 1.5 GiB, if they were unpacked together."""
    file, row = tmp_path / "bomb.parquet", pa.array([bytes(64 << 20)], pa.binary())
    schema = pa.schema({"image": pa.binary()})
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=dictionary, data_page_size=1 << 20) as writer:
        writer.write_table(pa.table({"image": pa.chunked_array([row] * 24)}), row_group_size=24)
    assert file.stat().st_size < 1 << 20
    done = subprocess.run([sys.executable, "-c", _BOMB, str(file)], capture_output=True, text=True, check=True)
    count, kinds, peak_mib = done.stdout.split(" ", 1)[0], done.stdout, int(done.stdout.split()[-1])
    assert (count, "ImageTooLarge" in kinds) == ("24", True)
    assert peak_mib < 800


def test_a_row_group_that_is_given_up_fails_from_its_row_on() -> None:
    data = CASES["binary.parquet"].data
    found = list(read_parquet(MemoryStore(data), _shard(data), Cursor(5), ReadOptions(), "it is a bomb"))
    assert [image.index for image in found] == [5, 6, 7, 8, 9]
    assert [str(image.error) for image in found[:3]] == ["row group 1 is damaged: it is a bomb"] * 3
    assert [(image.data, image.ends_part) for image in found[3:]] == [(TEN[8], False), (TEN[9], True)]
    assert [image.ends_part for image in found[:3]] == [False, False, True]


_SHORT_OF_MEMORY = """
import resource, sys
from tests.support.memory import MemoryStore, data_bytes
from pipeline.shards.base import Cursor, ReadOptions, SourceObject
from pipeline.shards.parquet import read_parquet
data = open(sys.argv[1], "rb").read()
shard = SourceObject(uri="memory/x.parquet", kind="parquet", size=len(data), version=None)
resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + (100 << 20), resource.RLIM_INFINITY))
try:
    print("yields", [image.error for image in read_parquet(MemoryStore(data), shard, Cursor(), ReadOptions())])
except MemoryError as error:
    print("raises", type(error).__name__)
"""


def test_memory_that_runs_out_says_nothing_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "large.parquet"
    file.write_bytes(large_row_parquet(256 << 20))
    done = subprocess.run(
        [sys.executable, "-c", _SHORT_OF_MEMORY, str(file)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "raises ArrowMemoryError"


def _with_ids(ids: pa.Array) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(TEN[: len(ids)], pa.binary()), "id": ids}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([2**62, 0, None], pa.timestamp("us")), pa.array([2**31 - 1, 0, None], pa.date32()),
        pa.array([2**62, 0, None], pa.timestamp("us", tz="UTC")), pa.array([2**62, 0, None], pa.duration("s")),
    ],
)  # fmt: skip
def test_an_id_that_python_has_no_value_for_is_the_row(ids: pa.Array) -> None:
    """`OverflowError` is no `ValueError`: it was a fault of ours, which ended the whole run, and each one after it."""
    found = _read(_with_ids(ids), id_column="id")
    assert [(image.error, image.data) for image in found] == [(None, data) for data in TEN[:3]]
    assert (found[0].image_id, found[2].image_id) == ("x.parquet#0", "x.parquet#2")
    assert found[1].image_id == str(ids[1].as_py())


def test_an_id_in_an_unknown_time_zone_is_the_row() -> None:
    """It made good images a damaged row group."""
    found = _read(_with_ids(pa.array([1, 2], pa.timestamp("us", tz="Nope/Zone"))), id_column="id")
    assert [(image.error, image.image_id) for image in found] == [(None, "x.parquet#0"), (None, "x.parquet#1")]


def test_memory_that_runs_out_for_an_id_says_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_module, "_text", short_of_memory)
    with pytest.raises(MemoryError):
        _read(CASES["ids.parquet"].data, id_column="id")


def test_more_rows_than_bytes_are_one_failure() -> None:
    """These 36 kB were 20 million failures."""
    column = pa.nulls(1_000_001, pa.binary())
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": column}), buffer, row_group_size=len(column))
    (row,) = islice(_read_lazily(buffer.getvalue()), 2)
    assert (row.truncated, row.index) == (True, 0)
    assert str(row.error) == f"1000001 rows in {len(buffer.getvalue())} bytes"
    assert row_group_starts(MemoryStore(buffer.getvalue()), _shard(buffer.getvalue())) == [(Cursor(0), 0)]


def test_a_million_rows_in_few_bytes_are_rows() -> None:
    column = pa.nulls(1_000_000, pa.binary())
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": column}), buffer, row_group_size=len(column))
    found = list(islice(_read_lazily(buffer.getvalue()), 2))
    assert [(image.index, type(image.error)) for image in found] == [(0, MissingImage), (1, MissingImage)]


def test_two_image_columns_of_one_name_are_refused() -> None:
    """The last was taken, in silence."""
    two = pa.schema([("image", pa.binary()), ("image", pa.binary())])
    for wanted in (None, "image"):
        with pytest.raises(UsageError, match="2 columns 'image'"):
            image_column(two, wanted)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array([b"1"]), pa.array(["a"]), pa.array(["b"])], ["image", "id", "id"]), buffer)
    (row,) = _read(buffer.getvalue(), id_column="id")
    assert (row.truncated, str(row.error)) == (True, "two columns 'id'")
