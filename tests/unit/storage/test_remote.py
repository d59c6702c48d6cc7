"""fsspec's file systems as inputs: its in-memory one, and ones that misbehave."""

from collections.abc import Iterator

import fsspec
import pytest

from pipeline.errors import NotReachable, ObjectChanged, ObjectDenied, ObjectMissing, StorageError
from pipeline.storage import retry
from pipeline.storage.remote import RemoteStore


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.0)
    files = fsspec.filesystem("memory")
    files.pipe({"/box/b.jpg": b"bb", "/box/a/2.jpg": b"2222", "/box/a/1.jpg": b"1", "/box/c.tar": bytes(range(50))})
    yield RemoteStore("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]


class _Status(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def test_walk_names_every_object_with_its_scheme(store: RemoteStore) -> None:
    found = list(store.walk("memory://box/"))
    assert sorted(info.uri for info in found) == [f"memory:///box/{name}" for name in ("a/1.jpg", "a/2.jpg", "b.jpg", "c.tar")]
    assert {info.uri.rpartition("/")[2]: info.size for info in found} == {"1.jpg": 1, "2.jpg": 4, "b.jpg": 2, "c.tar": 50}
    assert list(store.walk("memory://absent/")) == []


def test_reads(store: RemoteStore) -> None:
    assert store.stat("memory://box/c.tar").size == 50
    assert store.read("memory://box/c.tar") == bytes(range(50))
    assert store.read("memory://box/c.tar", 10, 5) == bytes(range(10, 15))
    assert store.read("memory://box/c.tar", 45) == bytes(range(45, 50))


def test_short_answers_are_storage_errors(store: RemoteStore) -> None:
    with pytest.raises(StorageError, match="asked for 10 bytes, got 5"):
        store.read("memory://box/c.tar", 45, 10)


@pytest.mark.parametrize(
    ("error", "translated"),
    [
        (FileNotFoundError("x"), ObjectMissing),
        (_Status(404), ObjectMissing),
        (PermissionError("x"), ObjectDenied),
        (_Status(403), ObjectDenied),
        (_Status(503), StorageError),
        (TimeoutError(), StorageError),
    ],
)
def test_foreign_errors_are_translated(
    store: RemoteStore, monkeypatch: pytest.MonkeyPatch, error: Exception, translated: type[Exception]
) -> None:
    calls = 0

    def fail(*arguments: object, **options: object) -> bytes:
        nonlocal calls
        calls += 1
        raise error

    for method in ("cat_file", "info", "ls"):
        monkeypatch.setattr(store._fs, method, fail)
    with pytest.raises(StorageError) as read:
        store.read("memory://box/b.jpg")
    with pytest.raises(StorageError) as stat:
        store.stat("memory://box/b.jpg")
    assert type(read.value) is type(stat.value) is translated
    assert calls == (2 if translated is not StorageError else 2 * retry.ATTEMPTS)


def test_a_server_that_ignores_ranges_is_read_whole_or_not_at_all(store: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store._fs, "cat_file", lambda _, **__: bytes(range(50)))
    assert store.read("memory://box/c.tar", 0, 10) == bytes(range(10))
    with pytest.raises(StorageError, match="no range reads"):
        store.read("memory://box/c.tar", 10, 10)


def test_versions_only_where_the_server_names_them(store: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.stat("memory://box/b.jpg").version is None
    monkeypatch.setattr(store._fs, "info", lambda _: {"size": 2, "ETag": '"abc"'})
    assert store.stat("memory://box/b.jpg").version == 'etag:"abc"'
    monkeypatch.setattr(store._fs, "info", lambda _: {"size": None})
    assert store.stat("memory://box/b.jpg").size is None


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(NotReachable, match="nosuch://"):
        RemoteStore("nosuch")


@pytest.mark.parametrize(("start", "length", "max_bytes"), [(0, None, None), (0, None, 10), (0, 2, None), (1, 1, None)])
def test_an_object_of_another_version_is_not_read(
    store: RemoteStore, monkeypatch: pytest.MonkeyPatch, start: int, length: int | None, max_bytes: int | None
) -> None:
    """gs:// and az:// say an ETag, but take none with a request: they are asked for it beside the bytes."""
    real = store._fs.info
    monkeypatch.setattr(store._fs, "info", lambda path: real(path) | {"etag": "now"})
    for planned in ("etag:now", 'etag:"now"', 'etag:W/"now"'):  # Azure's listings have no quotes, its answers have
        assert store.read("memory://box/b.jpg", start, length, planned, max_bytes) == b"bb"[start:]
    assert store.read("memory://box/b.jpg", start, length, None, max_bytes) == b"bb"[start:]
    with pytest.raises(ObjectChanged):
        store.read("memory://box/b.jpg", start, length, "etag:before", max_bytes)


class _AzureError(Exception):
    def __init__(self, status: int | None) -> None:
        super().__init__("azure")
        self.status_code = status


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_AzureError(403), ObjectDenied), (_AzureError(401), ObjectDenied), (_AzureError(404), ObjectMissing),
        (_AzureError(503), StorageError), (_AzureError(None), StorageError),
        (OSError("Forbidden: https://storage.googleapis.com/x"), ObjectDenied), (OSError("Forbidden"), StorageError),
    ],
)  # fmt: skip
def test_what_azure_and_google_say(
    store: RemoteStore, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr(store._fs, "cat_file", fail)
    with pytest.raises(StorageError) as caught:
        store.read("memory://box/b.jpg")
    assert type(caught.value) is expected
