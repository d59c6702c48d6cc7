"""The walk from header to header asks for as little as it can: requests are counted."""

import io
import tarfile
from collections.abc import Sequence

import pytest

from pipeline.errors import StorageError
from pipeline.shards.base import Cursor, ReadOptions, SourceObject
from pipeline.shards.range_file import CHUNK_BYTES
from pipeline.shards.tar import part_starts
from pipeline.shards.tar_headers import FAR_BYTES, HEADER_BYTES, HeaderFile
from pipeline.storage import ObjectInfo
from tests.support.memory import MemoryStore

URI = "s3://bucket/x.tar"


def _tar(sizes: Sequence[int]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    return sink.getvalue()


def _starts(store: MemoryStore, start: Cursor = Cursor(), uri: str = URI) -> list[int]:  # noqa: B008 - it is frozen
    shard = SourceObject(uri=uri, kind="tar", size=len(store.data), version="etag:1")
    return [cursor.index for cursor in part_starts(store, shard, ReadOptions(), 100, 64 << 20, start)]


def test_small_members_are_walked_by_the_chunk() -> None:
    """Of 3,000 members of 10 kB a request each was made."""
    store = MemoryStore(_tar([10_000] * 3_000))
    assert _starts(store) == list(range(0, 3_000, 100))
    assert len(store.requests) <= len(store.data) // CHUNK_BYTES + 8
    assert {request.version for request in store.requests} == {"etag:1"}
    assert sum(request.length or 0 for request in store.requests) <= len(store.data) + 8 * HEADER_BYTES


def test_large_members_are_not_read() -> None:
    store = MemoryStore(_tar([3 << 20] * 30))
    _starts(store)
    assert len(store.requests) <= 30 + 2
    assert sum(request.length or 0 for request in store.requests) < len(store.data) / 100


def test_it_follows_members_that_change() -> None:
    store = MemoryStore(_tar([3 << 20] * 12 + [10_000] * 2_000 + [3 << 20] * 12))
    _starts(store)
    assert len(store.requests) < 12 + 60 + 40


def test_on_a_disk_nothing_is_read_but_headers() -> None:
    store = MemoryStore(_tar([100_000] * 200))
    _starts(store, uri="/in/x.tar")
    assert max(request.length or 0 for request in store.requests) <= HEADER_BYTES


def test_a_walk_begins_where_it_is_told() -> None:
    store = MemoryStore(_tar([10_000] * 1_000))
    (at,) = (
        cursor
        for cursor in part_starts(
            store, SourceObject(uri=URI, kind="tar", size=len(store.data), version=None), ReadOptions(), 100, 64 << 20
        )
        if cursor.index == 500
    )
    store.requests.clear()
    assert _starts(store, at) == [500, 600, 700, 800, 900]
    assert min(request.start for request in store.requests) == at.offset


def test_nothing_is_read_before_it_is_asked_for() -> None:
    store = MemoryStore(_tar([10_000] * 5_000))
    walk = part_starts(store, SourceObject(uri=URI, kind="tar", size=len(store.data), version=None), ReadOptions(), 100, 64 << 20)
    assert next(walk).index == 0
    assert store.requests == []
    assert next(walk).index == 100
    assert sum(request.length or 0 for request in store.requests) <= 2 * CHUNK_BYTES + 8 * HEADER_BYTES
    walk.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("streams", [True, False])
def test_every_byte_is_the_right_one(streams: bool) -> None:
    data = bytes(range(256)) * (90 << 10)  # three chunks
    with HeaderFile(MemoryStore(data), ObjectInfo(URI, len(data), None), streams=streams) as file:
        for position in (0, 10, 5_000, 9_000, 12_000, HEADER_BYTES - 1, CHUNK_BYTES - 3, 2 * CHUNK_BYTES + 7, len(data) - 5):
            assert file.seek(position) == file.tell() == position
            assert file.read(20) == data[position : position + 20]
        file.seek(1_000)
        assert file.read() == data[1_000:]
        assert file.read(1) == b""
        assert file.readable()
        assert file.seekable()


def test_a_failure_of_the_chunk_that_is_fetched_ahead_is_raised_where_it_is_used() -> None:
    store = MemoryStore(_tar([10_000] * 3_000), broken=range(3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 1))
    walk = part_starts(store, SourceObject(uri=URI, kind="tar", size=len(store.data), version=None), ReadOptions(), 100, 64 << 20)
    before = [next(walk).index for _ in range(10)]
    assert before == list(range(0, 1_000, 100))
    with pytest.raises(StorageError, match="reset"):
        list(walk)


def test_a_chunk_and_a_request_are_worth_about_the_same() -> None:
    assert HEADER_BYTES < FAR_BYTES < CHUNK_BYTES
