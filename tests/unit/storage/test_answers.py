"""Whose fault an error is: a denied, gone or unreachable object is final only if its store answers for another one now."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import ForbiddenAddress, HostUnreachable, ObjectDenied, ObjectMissing, StorageError
from pipeline.storage import answers as module
from pipeline.storage.answers import Answers, expires_at, store_root
from pipeline.storage.base import ObjectInfo

DENIED, GONE, AWAY = ObjectDenied("denied"), ObjectMissing("gone"), HostUnreachable("no such host", "ClientConnectorDNSError")


class _Store:
    """Reads what is in `there`, denies the rest; lists `listed`."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.listed: list[str] = []
        self.asked: list[str] = []

    def read(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        assert (start, length) == (0, 1)
        self.asked.append(uri)
        if uri not in self.there:
            raise ObjectDenied("denied")
        return b"x"

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        return (ObjectInfo(uri, 1, None) for uri in self.listed if uri.startswith(prefix))

    def stat(self, uri: str) -> ObjectInfo:
        if uri not in self.there:
            raise HostUnreachable("away")
        return ObjectInfo(uri, 1, None)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> _Store:
    fake = _Store()
    monkeypatch.setattr(module, "store_for", lambda _: fake)
    return fake


def test_a_denied_object_alone_may_be_the_credentials(store: _Store) -> None:
    assert not Answers().is_its_own("s3://b/x/0", DENIED)


def test_a_denied_object_is_its_own_while_another_is_read(store: _Store) -> None:
    answers = Answers()
    answers.heard("s3://b/x/1")
    assert answers.is_its_own("s3://b/x/0", DENIED)
    assert not answers.is_its_own("s3://other/0", DENIED)
    assert not answers.is_its_own("s3://b/x/1", DENIED)  # that it was read before says nothing of now
    assert store.asked == []


def test_what_was_read_long_ago_is_asked_for_again(store: _Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that expired in between denies it, too."""
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    answers = Answers()
    answers.heard("s3://b/x/1")
    assert not answers.is_its_own("s3://b/x/0", DENIED)
    store.there.add("s3://b/x/1")
    assert answers.is_its_own("s3://b/x/0", DENIED)
    assert store.asked == ["s3://b/x/1"] * 2


def test_a_worker_that_has_read_nothing_tries_the_neighbours(store: _Store) -> None:
    store.listed = ["s3://b/x/0", "s3://b/x/1", "s3://b/x/2"]
    assert not Answers().is_its_own("s3://b/x/0", DENIED)  # listed, but denied: a wrong role
    store.there.add("s3://b/x/2")
    assert Answers().is_its_own("s3://b/x/0", DENIED)


def test_what_is_gone_is_gone_if_others_are_listed(store: _Store) -> None:
    assert not Answers().is_its_own("s3://b/x/0", GONE)
    store.listed = ["s3://b/y/1"]
    assert not Answers().is_its_own("s3://b/x/0", GONE)
    store.listed = ["s3://b/x/1"]
    assert Answers().is_its_own("s3://b/x/0", GONE)


def test_a_folder_that_is_empty_may_be_a_disk_that_is_not_mounted(tmp_path: Path) -> None:
    gone = str(tmp_path / "mount" / "a.tar")
    assert not Answers().is_its_own(gone, GONE)
    (tmp_path / "mount").mkdir()
    assert not Answers().is_its_own(gone, GONE)
    (tmp_path / "mount" / "b.tar").write_bytes(b"x")
    assert Answers().is_its_own(gone, GONE)


@pytest.mark.parametrize("error", [StorageError("503", "SlowDown"), StorageError("reset")])
def test_a_failing_store_is_never_the_objects_own_fault(store: _Store, error: StorageError) -> None:
    answers = Answers()
    answers.heard("s3://b/1")
    assert not answers.is_its_own("s3://b/0", error)


def test_a_forbidden_address_is_always_its_own() -> None:
    assert Answers().is_its_own("http://169.254.169.254/x", ForbiddenAddress("never"))


@pytest.mark.parametrize("error", [DENIED, GONE, AWAY])
def test_single_objects_of_the_web_are_their_own_once_another_host_answers(store: _Store, error: StorageError) -> None:
    answers = Answers()
    assert not answers.is_its_own("https://one/0.jpg", error)
    answers.heard("https://two/0.jpg")
    assert answers.is_its_own("https://one/0.jpg", error)


def test_a_host_that_says_no_answers_too(store: _Store) -> None:
    """A list of dead links alone comes to its end: each host says that it has no such object."""
    answers = Answers()
    assert not answers.is_its_own("https://one/0.jpg", GONE)
    store.there.add("https://one/")
    assert answers.is_its_own("https://two/0.jpg", GONE)


def test_a_dead_network_is_nobodys_own_fault(store: _Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    answers = Answers()
    answers.heard("https://two/0.jpg")
    answers.heard("https://one/1.jpg")
    assert not answers.is_its_own("https://one/0.jpg", AWAY)


def _amz(signed: datetime, seconds: int) -> str:
    return f"https://b.s3.example.com/0.jpg?X-Amz-Date={signed:%Y%m%dT%H%M%SZ}&X-Amz-Expires={seconds}&X-Amz-Signature=0"


def test_an_expired_presigned_url_is_not_its_own_fault(store: _Store) -> None:
    answers = Answers()
    answers.heard("https://b.s3.example.com/1.jpg?X-Amz-Signature=1")
    old = _amz(datetime(2026, 1, 1, tzinfo=UTC), 3600)
    assert not answers.is_its_own(old, DENIED, signed=True)
    assert answers.is_its_own(_amz(datetime.now(UTC), 3600), DENIED, signed=True)


def test_a_signed_url_needs_an_answer_of_its_own_host(store: _Store) -> None:
    answers = Answers()
    answers.heard("https://two/0.jpg")
    assert not answers.is_its_own("https://one/0.jpg?token=1", DENIED, signed=True)
    answers.heard("https://one/1.jpg?token=2")
    assert answers.is_its_own("https://one/0.jpg?token=1", DENIED, signed=True)


@pytest.mark.parametrize(
    ("query", "expires"),
    [
        ("X-Amz-Date=20261124T000000Z&X-Amz-Expires=60", datetime(2026, 11, 24, 0, 1, tzinfo=UTC)),
        ("X-Goog-Date=20261124T000000Z&X-Goog-Expires=60", datetime(2026, 11, 24, 0, 1, tzinfo=UTC)),
        ("Expires=1795478400", datetime(2026, 11, 24, tzinfo=UTC)),
        ("sv=1&se=2026-11-24T00%3A00%3A00Z", datetime(2026, 11, 24, tzinfo=UTC)),
        ("X-Amz-Date=nonsense&X-Amz-Expires=60", None), ("Expires=never", None), ("id=7", None), ("", None),
    ],
)  # fmt: skip
def test_when_a_signature_expires(query: str, expires: datetime | None) -> None:
    assert expires_at(f"https://h/x?{query}") == (None if expires is None else expires.timestamp())
    assert expires_at(f"/in/x?{query}") is None


def test_store_root() -> None:
    assert store_root("s3://bucket/a/b") == "s3://bucket"
    assert store_root("https://user:password@h:80/a") == "https://h:80"
    assert store_root("/a/b") == "/a"


def test_memory_of_what_was_read_is_bounded() -> None:
    answers = Answers()
    started = time.perf_counter()
    for number in range(10_000):
        answers.heard(f"s3://b/{number}")
    assert time.perf_counter() - started < 5
    assert [len(read) for read in answers._read.values()] == [4]


def test_a_denied_file_among_others(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert Answers().is_its_own(str(tmp_path / "a.jpg"), DENIED)
    os.unlink(tmp_path / "b.jpg")
    assert not Answers().is_its_own(str(tmp_path / "a.jpg"), DENIED)
