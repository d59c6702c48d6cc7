"""A file over range reads: the same bytes as the object, few requests, errors of the store kept."""

import io
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StorageError
from pipeline.shards.range_file import RangeFile
from pipeline.storage.base import ObjectInfo
from tests.support.memory import MemoryStore


def _file(store: MemoryStore, chunk: int, *, ahead: bool = True) -> RangeFile:
    return RangeFile(store, ObjectInfo("x", len(store.data), "etag:1"), chunk, ahead=ahead)


_MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 40)),
        st.tuples(st.just("seek"), st.integers(0, 130)),
        st.tuples(st.just("skip"), st.integers(-30, 30)),
        st.tuples(st.just("from_end"), st.integers(-30, 0)),
        st.tuples(st.just("readinto"), st.integers(0, 20)),
    ),
    max_size=20,
)


@given(size=st.integers(0, 100), chunk=st.integers(1, 40), moves=_MOVES, ahead=st.booleans())
def test_behaves_as_a_file(size: int, chunk: int, moves: list[tuple[str, int]], ahead: bool) -> None:
    data = bytes(range(size))
    truth = io.BytesIO(data)
    with _file(MemoryStore(data), chunk, ahead=ahead) as file:
        for move, amount in moves:
            if move == "read":
                assert file.read(amount) == truth.read(amount)
            elif move == "readinto":
                mine, theirs = bytearray(amount), bytearray(amount)
                assert file.readinto(mine) == truth.readinto(theirs)
                assert mine == theirs
            elif move == "seek":
                assert file.seek(amount) == truth.seek(amount)
            elif move == "skip":
                target = max(0, truth.tell() + amount)
                assert file.seek(target - truth.tell(), io.SEEK_CUR) == truth.seek(target)
            else:
                assert file.seek(amount, io.SEEK_END) == truth.seek(max(0, size + amount))
            assert file.tell() == truth.tell()


def test_sequential_reading_asks_for_each_chunk_once_and_with_the_version() -> None:
    store = MemoryStore(bytes(95))
    with _file(store, 10) as file:
        while file.read(7):
            pass
    assert sorted((request.start, request.length) for request in store.requests) == [
        (start, min(10, 95 - start)) for start in range(0, 95, 10)
    ]
    assert {request.version for request in store.requests} == {"etag:1"}


def test_the_next_chunk_is_fetched_while_this_one_is_used() -> None:
    asked_for_ten = threading.Event()

    class _Signals(MemoryStore):
        def read(self, uri: str, start: int = 0, *asked: Any, **more: Any) -> bytes:
            if start == 10:
                asked_for_ten.set()
            return super().read(uri, start, *asked, **more)

    with _file(_Signals(bytes(30)), 10) as file:
        file.read(1)
        assert asked_for_ten.wait(10)


def test_without_read_ahead_nothing_is_asked_for_in_advance() -> None:
    store = MemoryStore(bytes(30))
    with _file(store, 10, ahead=False) as file:
        file.seek(25)
        file.read(1)
    assert [(request.start, request.length) for request in store.requests] == [(25, 5)]


def test_a_seek_alone_asks_for_nothing_and_one_within_the_chunk_neither() -> None:
    store = MemoryStore(bytes(30))
    with _file(store, 10, ahead=False) as file:
        file.seek(3)
        assert store.requests == []
        file.read(2)
        file.seek(12)
        file.read(1)
        file.seek(4)
        file.seek(3)
        assert [(request.start, request.length) for request in store.requests] == [(3, 10)]


@pytest.mark.parametrize("ahead", [False, True])
def test_errors_of_the_store_are_raised_and_kept(ahead: bool) -> None:
    store = MemoryStore(bytes(30), range(10, 30))
    with _file(store, 10, ahead=ahead) as file:
        assert file.failure is None
        with pytest.raises(StorageError, match="reset"):
            file.read()
        assert isinstance(file.failure, StorageError)


def test_close_ends_the_thread() -> None:
    file = _file(MemoryStore(bytes(100)), 10)
    file.read(1)
    file.close()
    assert file.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]
