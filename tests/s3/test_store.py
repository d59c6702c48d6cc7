"""`S3Store` on a real server: conditional writes, versions, identities, and a server that is not there."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs

from pipeline.errors import NotReachable, ObjectChanged, ObjectDenied, ObjectMissing, ObjectTooLarge, StorageError, StorageRefused
from pipeline.listing.listing import Listing, list_inputs
from pipeline.shards.base import ReadOptions, SourceObject
from pipeline.shards.single import read_images
from pipeline.storage import _store, retry
from pipeline.storage import s3 as s3_module
from pipeline.storage.s3 import S3Store
from tests.support.s3_server import S3Server

BUCKET = "store-tests"
SHORT_S = 20.0  # in which anything that cannot succeed must have been given up here


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 3)
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(s3_module, "CONNECT_TIMEOUT_S", 2)
    monkeypatch.setattr(s3_module, "READ_TIMEOUT_S", 5)


@pytest.fixture
def connect(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., S3Store]]:
    """A store of its own for an identity: neither a client nor a listing is shared with other tests."""
    s3.make_bucket(BUCKET)
    s3.make_bucket("readonly")

    def make(env: dict[str, str], **changed: str) -> S3Store:
        for name, value in (env | changed).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        _store.cache_clear()
        return S3Store()

    yield make
    s3fs.S3FileSystem.clear_instance_cache()
    _store.cache_clear()


@pytest.fixture
def store(connect: Callable[..., S3Store], s3: S3Server) -> S3Store:
    return connect(s3.env)


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{request.node.name}"


@pytest.fixture(autouse=True)
def _not_endless() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SHORT_S + 60  # a server may have to start first


# --- conditional put ------------------------------------------------------------------------------------------


def test_create_never_overwrites(store: S3Store, prefix: str) -> None:
    version = store.create(f"{prefix}/part", b"first")
    assert version == store.stat(f"{prefix}/part").version
    assert [info.version for info in store.walk(f"{prefix}/")] == [version]
    assert not store.create(f"{prefix}/part", b"second")
    assert not store.create(f"{prefix}/part", b"first")  # the same bytes, but not ours
    assert store.read(f"{prefix}/part") == b"first"


def test_one_of_many_creators_wins(store: S3Store, prefix: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda number: store.create(f"{prefix}/part", bytes([number]) * 10_000), range(8)))
    assert won.count(None) == 7
    assert store.read(f"{prefix}/part") == bytes([next(number for number, version in enumerate(won) if version)]) * 10_000


@pytest.mark.parametrize("mine", [True, False])
def test_a_put_whose_answer_was_lost_is_known_by_its_mark(
    store: S3Store, prefix: str, monkeypatch: pytest.MonkeyPatch, mine: bool
) -> None:
    """The first try is written, or another attempt's with the same bytes is, and the connection breaks before the answer."""
    request, broken = store._request, iter([True])

    async def lossy(method: str, **arguments: object) -> dict[str, object]:
        lost = method == "put_object" and next(broken, False)
        answer = await request(method, **(arguments | ({} if mine or not lost else {"Metadata": {"put": "another"}})))
        if lost:
            raise ConnectionResetError("lost")
        return answer

    monkeypatch.setattr(store, "_request", lossy)
    assert (store.create(f"{prefix}/part", b"same") is not None) == mine
    assert store.read(f"{prefix}/part") == b"same"


def test_replace_and_delete(store: S3Store, prefix: str) -> None:
    store.replace(f"{prefix}/run.json", b"1")
    assert store.replace(f"{prefix}/run.json", b"22") == store.stat(f"{prefix}/run.json").version
    assert store.read(f"{prefix}/run.json") == b"22"
    store.delete(f"{prefix}/run.json")
    store.delete(f"{prefix}/run.json")
    with pytest.raises(ObjectMissing):
        store.read(f"{prefix}/run.json")
    assert store.create(f"{prefix}/run.json", b"3")


# --- reading --------------------------------------------------------------------------------------------------


def test_reads(store: S3Store, prefix: str) -> None:
    uri, data = f"{prefix}/a b#c?d%20é.tar", bytes(range(256))
    store.replace(uri, data)
    assert store.read(uri) == data
    assert store.read(uri, 10, 5) == data[10:15]
    assert store.read(uri, 250) == data[250:]
    assert store.read(uri, 3, 0) == b""
    info = store.stat(uri)
    assert (info.uri, info.size) == (uri, 256)
    assert info.version is not None
    assert store.read(uri, 0, 3, info.version) == data[:3]


def test_what_is_too_large_is_not_read(store: S3Store, prefix: str) -> None:
    store.replace(f"{prefix}/x", b"12345")
    assert store.read(f"{prefix}/x", max_bytes=5) == b"12345"
    with pytest.raises(ObjectTooLarge, match="5 bytes"):
        store.read(f"{prefix}/x", max_bytes=4)


def test_an_object_that_changed_is_refused_by_its_etag(store: S3Store, prefix: str) -> None:
    uri = f"{prefix}/x.tar"
    store.replace(uri, b"old")
    version = store.stat(uri).version
    assert store.read(uri, version=version) == b"old"
    store.replace(uri, b"new")
    assert store.stat(uri).version != version
    with pytest.raises(ObjectChanged, match="changed"):
        store.read(uri, 0, 2, version)


def test_an_object_that_is_shorter_than_listed_is_a_storage_error(store: S3Store, prefix: str) -> None:
    store.replace(f"{prefix}/x", b"12345")
    with pytest.raises(StorageError):
        store.read(f"{prefix}/x", 3, 10)
    with pytest.raises(StorageError):
        store.read(f"{prefix}/x", 10, 10)


def test_what_is_not_there(store: S3Store, prefix: str) -> None:
    for call in (store.read, store.stat):
        with pytest.raises(ObjectMissing, match=f"{prefix}/absent"):
            call(f"{prefix}/absent")
    assert list(store.walk(f"{prefix}/absent/")) == []
    assert list(store.names(f"{prefix}/absent-")) == []


def test_walk_pages_in_order_with_the_versions_of_stat(store: S3Store, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request, pages = store._request, 0

    async def small_pages(method: str, **arguments: object) -> dict[str, object]:
        nonlocal pages
        pages += method == "list_objects_v2"
        return await request(method, **(arguments | {"MaxKeys": 2} if method == "list_objects_v2" else arguments))

    names = [f"{number}.jpg" for number in range(5)] + ["deep/a.jpg", "deep/b.jpg"]
    for name in names:
        store.replace(f"{prefix}/{name}", name.encode())
    store.replace(f"{prefix}/folder/", b"")  # what consoles make
    monkeypatch.setattr(store, "_request", small_pages)
    found = list(store.walk(f"{prefix}/"))
    assert [info.uri for info in found] == [f"{prefix}/{name}" for name in names]
    assert pages == 4
    assert [(info.size, info.version) for info in found[:2]] == [(5, store.stat(info.uri).version) for info in found[:2]]
    assert list(store.names(f"{prefix}/3")) == ["3.jpg"]


def test_as_an_input(store: S3Store, prefix: str) -> None:
    for name in ("b.jpg", "a/1.tar", "note.md"):
        store.replace(f"{prefix}/{name}", b"12")
    listing = Listing()
    rows = list(list_inputs([prefix], listing))
    assert [(row.uri, row.kind, row.image_id) for row in rows] == [
        (f"{prefix}/a/1.tar", "tar", None),
        (f"{prefix}/b.jpg", "image", "b.jpg"),
    ]
    assert listing.ignored == 1
    assert [row.uri for row in list_inputs([f"{prefix}/*/?.tar"], Listing())] == [f"{prefix}/a/1.tar"]
    with pytest.raises(NotReachable, match="nothing to label"):
        list(list_inputs([f"{prefix}/absent"], Listing()))


# --- identities -----------------------------------------------------------------------------------------------


def test_a_denied_identity(connect: Callable[..., S3Store], s3: S3Server, store: S3Store, prefix: str) -> None:
    store.replace(f"{prefix}/x.jpg", b"x")
    denied = connect(s3.denied_env)
    started = time.monotonic()
    for call in (
        lambda: denied.read(f"{prefix}/x.jpg"),
        lambda: denied.stat(f"{prefix}/x.jpg"),
        lambda: list(denied.walk(f"{prefix}/")),
        lambda: denied.create(f"{prefix}/y", b"y"),
        lambda: denied.replace(f"{prefix}/x.jpg", b"y"),
    ):
        with pytest.raises(ObjectDenied, match="access denied"):
            call()
    assert time.monotonic() - started < SHORT_S
    with pytest.raises(NotReachable, match="access denied"):
        list(list_inputs([f"{prefix}/x.jpg"], Listing()))


def test_a_reader_may_not_write(connect: Callable[..., S3Store], s3: S3Server, store: S3Store) -> None:
    store.replace("s3://readonly/x", b"x")
    reader = connect(s3.readonly_env)
    assert reader.read("s3://readonly/x") == b"x"
    assert "s3://readonly/x" in [info.uri for info in reader.walk("s3://readonly/")]
    with pytest.raises(ObjectDenied):
        reader.create("s3://readonly/y", b"y")
    with pytest.raises(ObjectDenied):
        reader.replace("s3://readonly/x", b"y")
    with pytest.raises(ObjectDenied):
        reader.delete("s3://readonly/x")
    assert reader.read("s3://readonly/x") == b"x"


def test_images_denied_everywhere_are_an_error_of_the_run(
    connect: Callable[..., S3Store], s3: S3Server, store: S3Store, prefix: str
) -> None:
    rows = [SourceObject(uri=f"s3://{BUCKET}/secret.jpg", kind="image", size=None, version=None)]
    connect(s3.denied_env)
    with pytest.raises(StorageError, match="credentials"):
        list(read_images(enumerate(rows), ReadOptions()))


@pytest.mark.parametrize(
    "changed",
    [{"AWS_ACCESS_KEY_ID": "nobody"}, {"AWS_SECRET_ACCESS_KEY": "wrong"}],
)
def test_wrong_credentials_are_no_fault_of_an_object(
    connect: Callable[..., S3Store], s3: S3Server, prefix: str, changed: dict[str, str]
) -> None:
    """Not `ObjectDenied`, which would make a row of failures of every image."""
    wrong = connect(s3.env, **changed)
    started = time.monotonic()
    for call in (
        lambda: wrong.read(f"{prefix}/x"),
        lambda: list(wrong.walk(f"{prefix}/")),
        lambda: wrong.create(f"{prefix}/x", b"x"),
    ):
        with pytest.raises(StorageRefused):
            call()
    assert time.monotonic() - started < SHORT_S
    with pytest.raises(NotReachable):
        list(list_inputs([f"{prefix}/"], Listing()))


def test_a_missing_bucket(store: S3Store) -> None:
    started = time.monotonic()
    for call in (
        lambda: store.read("s3://no-such-bucket-here/x"),
        lambda: list(store.walk("s3://no-such-bucket-here/")),
        lambda: store.create("s3://no-such-bucket-here/x", b"x"),
    ):
        with pytest.raises(StorageRefused, match="NoSuchBucket"):
            call()
    assert time.monotonic() - started < SHORT_S
    with pytest.raises(NotReachable, match="no-such-bucket-here"):
        list(list_inputs(["s3://no-such-bucket-here/x/"], Listing()))


# --- a server that is not there -------------------------------------------------------------------------------


def test_a_killed_server(connect: Callable[..., S3Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    with S3Server(tmp_path) as server:
        server.make_bucket("bkt")
        store = connect(server.env)
        assert store.create("s3://bkt/x", b"x")
        server.kill()
        started = time.monotonic()
        for call in (
            lambda: store.read("s3://bkt/x"),
            lambda: store.stat("s3://bkt/x"),
            lambda: list(store.walk("s3://bkt/")),
            lambda: store.create("s3://bkt/y", b"y"),
            lambda: store.replace("s3://bkt/x", b"y"),
        ):
            with pytest.raises(StorageError) as error:
                call()
            assert type(error.value) is StorageError  # not missing, not denied: it may come back
        assert time.monotonic() - started < 3 * SHORT_S
        with pytest.raises(NotReachable):
            list(list_inputs(["s3://bkt/"], Listing()))
        server.start()
        assert store.read("s3://bkt/x") == b"x"
        assert store.create("s3://bkt/y", b"y")


def test_the_client_is_told_to_time_out(store: S3Store) -> None:
    options = store._fs.config_kwargs
    assert (options["connect_timeout"], options["read_timeout"]) == (2, 5)
    assert options["retries"]["total_max_attempts"] == 1  # only our own retries are counted
