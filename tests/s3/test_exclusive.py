"""Stores that do not keep to If-None-Match, in front of a real one: found out at the start, and nothing is left there."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs

from pipeline.errors import NotExclusive, StorageError, UsageError
from pipeline.plan.plan import extend_plan, read_plan
from pipeline.shards.base import SourceObject
from pipeline.storage import _store, retry
from pipeline.storage.s3 import S3Store
from tests.support.faulty_s3 import FaultyS3, Request
from tests.support.runs import segment, write_tars
from tests.support.s3_server import S3Server

BUCKET = "exclusive"
ADVICE = "conditional puts work on AWS S3"


@pytest.fixture
def connect(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], S3Store]]:
    """A store that goes through this endpoint, and does not wait long."""
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.05)
    s3.make_bucket(BUCKET)

    def make(endpoint: str) -> S3Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        return S3Store()

    yield make
    s3fs.S3FileSystem.clear_instance_cache()
    _store.cache_clear()


@pytest.fixture
def out(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').strip(']')}"


@pytest.fixture
def keys(s3: S3Server, connect: Callable[[str], S3Store], out: str) -> Callable[[], list[str]]:
    """What lies in the output, past every proxy."""
    return lambda: [info.uri.removeprefix(f"{out}/") for info in connect(s3.endpoint).walk(f"{out}/")]


def _ignoring(s3: S3Server) -> Callable[[Request], str | None]:
    """What makes the server behind it one that overwrites: the key is empty before each conditional put of it."""
    files, lock = s3.filesystem(), threading.Lock()

    def fault(request: Request) -> str | None:
        if request.is_conditional_put:
            with lock:
                files.rm_file(request.path.partition("?")[0].strip("/"))
        return None

    return fault


def _plan(store: S3Store, out: str) -> None:
    rows = [SourceObject(uri="s3://x/0.tar", kind="tar", size=1, version="etag:1")]
    extend_plan(store, out, read_plan(store, out), iter(rows), {"fingerprint": "f"})


def test_a_store_that_overwrites_is_refused_and_nothing_is_left(
    s3: S3Server, connect: Callable[[str], S3Store], out: str, keys: Callable[[], list[str]]
) -> None:
    with FaultyS3(s3.endpoint, _ignoring(s3)) as proxy, pytest.raises(UsageError, match=f"not one alone wins.*{ADVICE}"):
        _plan(connect(proxy.endpoint), out)
    assert keys() == []


def test_a_store_that_does_not_know_the_condition_is_refused_at_once(
    s3: S3Server, connect: Callable[[str], S3Store], out: str, keys: Callable[[], list[str]]
) -> None:
    with FaultyS3(s3.endpoint, lambda _: "not_implemented") as proxy:
        with pytest.raises(UsageError, match=f"does not implement If-None-Match.*{ADVICE}"):
            _plan(connect(proxy.endpoint), out)
        assert proxy.done["not_implemented"] <= 3  # asked again by nobody
        with pytest.raises(NotExclusive):
            connect(proxy.endpoint).create(f"{out}/masks/x", b"x")
    assert keys() == []


def test_a_sound_store_is_taken_and_a_resume_asks_nothing(s3: S3Server, connect: Callable[[str], S3Store], out: str) -> None:
    asked: list[Request] = []

    def note(request: Request) -> None:
        asked.append(request)

    with FaultyS3(s3.endpoint, note) as proxy:
        store = connect(proxy.endpoint)
        _plan(store, out)
        assert [info.uri for info in store.walk(f"{out}/")] == [f"{out}/plan/00000.parquet"]
        first = len(asked)
        _plan(store, out)
        assert [request.method for request in asked[first:]] == ["GET"] * 3  # file 0, no file 1, and none at the end


def test_two_attempts_at_once_are_both_taken(
    s3: S3Server, connect: Callable[[str], S3Store], out: str, keys: Callable[[], list[str]]
) -> None:
    store = connect(s3.endpoint)
    with ThreadPoolExecutor(2) as threads:
        for number in range(5):
            list(threads.map(lambda _, number=number: _plan(store, f"{out}/{number}"), range(2)))
    assert len(keys()) == 5


def test_a_user_who_may_not_delete_may_begin(
    s3: S3Server, connect: Callable[[str], S3Store], out: str, keys: Callable[[], list[str]]
) -> None:
    with FaultyS3(s3.endpoint, lambda request: "denied" if request.method == "DELETE" else None) as proxy:
        _plan(connect(proxy.endpoint), out)
        assert proxy.done["denied"] == 1
    assert "plan/00000.parquet" in keys()


@pytest.mark.usefixtures("local_ray")
def test_an_attempt_is_refused_with_exit_2_in_one_line(
    s3: S3Server, connect: Callable[[str], S3Store], out: str, keys: Callable[[], list[str]], tmp_path: Path
) -> None:
    with FaultyS3(s3.endpoint, _ignoring(s3)) as proxy:
        connect(proxy.endpoint)
        _store.cache_clear()
        with pytest.raises(UsageError, match=ADVICE) as refused:
            segment(write_tars(tmp_path / "in", 1, 2), out)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    assert keys() == []


# --- replacing only what was seen -----------------------------------------------------------------------------


def test_only_what_was_seen_is_replaced(s3: S3Server, connect: Callable[[str], S3Store], out: str) -> None:
    store, uri = connect(s3.endpoint), f"{out}/run.json"
    assert not store.replace_if(uri, b"1", b"0")
    assert store.replace_if(uri, b"1", None)
    assert not store.replace_if(uri, b"2", None)
    assert not store.replace_if(uri, b"2", b"0")
    assert store.replace_if(uri, b"2", b"1")
    assert store.read(uri) == b"2"


def test_one_of_many_replaces(s3: S3Server, connect: Callable[[str], S3Store], out: str) -> None:
    store, uri = connect(s3.endpoint), f"{out}/run.json"
    store.replace(uri, b"before")
    with ThreadPoolExecutor(4) as threads:
        won = list(threads.map(lambda number: store.replace_if(uri, b"%d" % number, b"before"), range(4)))
    assert won.count(True) == 1
    assert store.read(uri) == b"%d" % won.index(True)


@pytest.mark.parametrize("fault", ["lost", "not_implemented", "conflict", "slow_down"])
def test_what_happens_to_the_put_changes_nothing(s3: S3Server, connect: Callable[[str], S3Store], out: str, fault: str) -> None:
    """`lost`: it is written, and the answer is not heard. `not_implemented`: a store that knows no If-Match."""
    store, uri = connect(s3.endpoint), f"{out}/run.json"
    store.replace(uri, b"before")
    done: list[str] = []

    def once(request: Request) -> str | None:
        if request.is_conditional_replace and (not done or fault == "not_implemented"):
            done.append(fault)
            return fault
        return None

    with FaultyS3(s3.endpoint, once) as proxy:
        through = connect(proxy.endpoint)
        assert through.replace_if(uri, b"after", b"before")
        assert proxy.done[fault] == 1
        assert not through.replace_if(uri, b"other", b"before")
    assert s3.filesystem().cat_file(uri) == b"after"


def test_a_store_that_is_not_there_replaces_nothing(s3: S3Server, connect: Callable[[str], S3Store], out: str) -> None:
    with FaultyS3(s3.endpoint, lambda _: "internal") as proxy, pytest.raises(StorageError):
        connect(proxy.endpoint).replace_if(f"{out}/run.json", b"1", b"0")
