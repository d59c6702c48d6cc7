"""Whose fault an error is: a denied, gone or unreachable object is final only if its store answers for another one now."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import ForbiddenAddress, HostUnreachable, ObjectDenied, ObjectMissing, StorageError, StorageRefused
from pipeline.storage import answers as module
from pipeline.storage.answers import Answers, store_root
from pipeline.storage.base import ObjectInfo

DENIED, GONE, AWAY = ObjectDenied("denied"), ObjectMissing("gone"), HostUnreachable("no such host", "ClientConnectorDNSError")


LONG_AGO = -1e9  # monotonic


def is_its_own(
    answers: Answers, uri: str, error: StorageError, *others: str,
    since: float | None = None, signed: bool = False, was_there: bool = False,
) -> bool:  # fmt: skip
    """The error was met just now."""
    since = time.monotonic() if since is None else since
    return answers.is_its_own(uri, error, since=since, signed=signed, was_there=was_there, candidates=lambda _: others)


class _Store:
    """Reads what is in `there`, denies the rest; lists `listed`, or nothing if its bucket is gone."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.listed: list[str] | None = []
        self.asked: list[str] = []

    def read(self, uri: str, start: int = 0, length: int | None = None, *, max_bytes: int | None = None) -> bytes:
        assert (start, length, max_bytes) == ((0, None, 1) if uri.startswith("https:") else (0, 1, None))
        self.asked.append(uri)
        if uri not in self.there:
            raise ObjectDenied("denied")
        return b"x"

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        if self.listed is None:
            raise StorageRefused("NoSuchBucket")
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
    assert not is_its_own(Answers(), "s3://b/x/0", DENIED)


def test_a_denied_object_is_its_own_if_another_was_read_after_it(store: _Store) -> None:
    answers = Answers()
    answers.heard("s3://b/x/1")
    assert is_its_own(answers, "s3://b/x/0", DENIED, since=LONG_AGO)
    assert store.asked == []
    assert not is_its_own(answers, "s3://other/0", DENIED, since=LONG_AGO)
    assert not is_its_own(answers, "s3://b/x/1", DENIED, since=LONG_AGO)  # that it was read itself says nothing of now


def test_what_was_read_before_is_asked_for_again(store: _Store) -> None:
    """A token that expired in between denies it, too, if only a moment lies between."""
    answers = Answers()
    answers.heard("s3://b/x/1")
    assert not is_its_own(answers, "s3://b/x/0", DENIED)
    store.there.add("s3://b/x/1")
    assert is_its_own(answers, "s3://b/x/0", DENIED)
    assert store.asked == ["s3://b/x/1"] * 2


def test_a_worker_that_has_read_nothing_tries_the_neighbours(store: _Store) -> None:
    store.listed = ["s3://b/x/0", "s3://b/x/1", "s3://b/x/2"]
    assert not is_its_own(Answers(), "s3://b/x/0", DENIED)  # listed, but denied: a wrong role
    store.there.add("s3://b/x/2")
    assert is_its_own(Answers(), "s3://b/x/0", DENIED)


def test_a_worker_without_neighbours_tries_what_else_is_planned(store: _Store) -> None:
    """What is left of a list may be dead links alone: those that were labelled before still answer."""
    assert not is_its_own(Answers(), "https://h/0", GONE, "https://h/1")
    store.there |= {"https://h/1", "s3://b/1"}
    assert is_its_own(Answers(), "https://h/0", GONE, "https://h/1")
    assert not is_its_own(Answers(), "https://h/0", GONE, "s3://b/1", "https://h/0")
    assert is_its_own(Answers(), "s3://b/0", DENIED, "s3://b/1")
    assert not is_its_own(Answers(), "s3://other/0", DENIED, "s3://b/1")


def test_a_plan_that_cannot_be_read_is_no_answer(store: _Store) -> None:
    def unreadable(_: str) -> Iterator[str]:
        yield "s3://other/1"
        raise StorageError("503", "SlowDown")

    assert not Answers().is_its_own("s3://b/0", DENIED, since=0.0, candidates=unreadable)


def test_a_key_that_s3_does_not_list_is_gone(store: _Store) -> None:
    """Of a bucket that lists, be it empty. One that is gone itself, or may not be listed, says nothing."""
    assert is_its_own(Answers(), "s3://b/x/0", GONE)
    store.listed = ["s3://b/x/0"]
    assert not is_its_own(Answers(), "s3://b/x/0", GONE)
    store.listed = ["s3://b/x/01"]
    assert is_its_own(Answers(), "s3://b/x/0", GONE)
    store.listed = None
    assert not is_its_own(Answers(), "s3://b/x/0", GONE)


def test_elsewhere_what_is_gone_is_gone_if_others_are_listed(store: _Store) -> None:
    assert not is_its_own(Answers(), "gs://b/x/0", GONE)
    store.listed = ["gs://b/y/1"]
    assert not is_its_own(Answers(), "gs://b/x/0", GONE)
    store.listed = ["gs://b/x/1"]
    assert is_its_own(Answers(), "gs://b/x/0", GONE)


def test_a_folder_that_is_empty_may_be_a_disk_that_is_not_mounted(tmp_path: Path) -> None:
    gone = str(tmp_path / "mount" / "a.tar")
    assert not is_its_own(Answers(), gone, GONE)
    (tmp_path / "mount").mkdir()
    assert not is_its_own(Answers(), gone, GONE)
    (tmp_path / "mount" / "b.tar").write_bytes(b"x")
    assert is_its_own(Answers(), gone, GONE)


def test_a_file_that_was_there_is_gone_only_if_others_that_are_planned_are_there(tmp_path: Path) -> None:
    """Anything may lie in the folder where a disk is not mounted, and a note that it is not is common."""
    gone = str(tmp_path / "mount" / "a.tar")
    (tmp_path / "mount").mkdir()
    (tmp_path / "mount" / ".NOT_MOUNTED").write_bytes(b"x")
    answers = Answers()
    assert is_its_own(answers, gone, GONE)  # nobody has ever seen it, and the folder is all that a list has told
    assert not is_its_own(answers, gone, GONE, was_there=True)
    planned = str(tmp_path / "mount" / "b.tar")
    assert not is_its_own(answers, gone, GONE, planned, was_there=True)
    Path(planned).write_bytes(b"x")
    assert is_its_own(answers, gone, GONE, planned, was_there=True)
    answers.heard(planned)
    assert is_its_own(answers, gone, GONE, was_there=True, since=LONG_AGO)
    (tmp_path / "file").write_bytes(b"x")
    assert is_its_own(answers, str(tmp_path / "file" / "a.tar"), GONE, was_there=True)  # no disk could make a folder of it


def test_a_link_is_judged_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b.tar").write_bytes(b"x")
    (tmp_path / "mount").mkdir()
    (tmp_path / "links" / "a.tar").symlink_to(tmp_path / "mount" / "a.tar")
    assert not is_its_own(Answers(), str(tmp_path / "links" / "a.tar"), GONE)
    (tmp_path / "mount" / "b.tar").write_bytes(b"x")
    assert is_its_own(Answers(), str(tmp_path / "links" / "a.tar"), GONE)


def test_a_folder_that_is_gone_was_on_the_disk_of_others_beside_it(tmp_path: Path) -> None:
    gone, beside = str(tmp_path / "in" / "7" / "a.jpg"), tmp_path / "in" / "8" / "b.jpg"
    assert not is_its_own(Answers(), gone, GONE, str(beside))
    beside.parent.mkdir(parents=True)
    beside.write_bytes(b"x")
    assert is_its_own(Answers(), gone, GONE, str(beside))
    elsewhere = tmp_path / "b.jpg"
    elsewhere.write_bytes(b"x")
    assert not is_its_own(Answers(), gone, GONE, str(elsewhere))  # `in` may be where the disk is not mounted
    on_another_disk = "/proc/self/status"
    assert not is_its_own(Answers(), "/nowhere/a.jpg", GONE, on_another_disk)


@pytest.mark.parametrize("name", ["b.jpg/c.jpg", 255 * "x" + ".jpg", "loop.jpg"])
def test_what_can_be_no_file_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "b.jpg").write_bytes(b"x")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert is_its_own(Answers(), str(tmp_path / name), GONE)


@pytest.mark.parametrize("error", [StorageError("503", "SlowDown"), StorageError("reset")])
def test_a_failing_store_is_never_the_objects_own_fault(store: _Store, error: StorageError) -> None:
    answers = Answers()
    answers.heard("s3://b/1")
    assert not is_its_own(answers, "s3://b/0", error, since=LONG_AGO)


def test_a_forbidden_address_is_always_its_own() -> None:
    assert is_its_own(Answers(), "http://169.254.169.254/x", ForbiddenAddress("never"))


@pytest.mark.parametrize("error", [DENIED, GONE, AWAY])
def test_single_objects_of_the_web_are_their_own_once_another_host_answers(store: _Store, error: StorageError) -> None:
    answers = Answers()
    assert not is_its_own(answers, "https://one/0.jpg", error)
    answers.heard("https://two/0.jpg")
    assert not is_its_own(answers, "https://one/0.jpg", error)  # it answered before, and not now
    assert is_its_own(answers, "https://one/0.jpg", error, since=LONG_AGO)


def test_a_host_that_says_no_answers_too(store: _Store) -> None:
    """A list of dead links alone comes to its end: each host says that it has no such object."""
    answers = Answers()
    assert not is_its_own(answers, "https://one/0.jpg", GONE)
    store.there.add("https://one/")
    assert is_its_own(answers, "https://two/0.jpg", GONE)


def test_a_dead_network_is_nobodys_own_fault(store: _Store) -> None:
    answers = Answers()
    answers.heard("https://two/0.jpg")
    answers.heard("https://one/1.jpg")
    assert not is_its_own(answers, "https://one/0.jpg", AWAY)


def test_a_host_that_is_away_is_remembered_for_a_while(store: _Store, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers()
    assert answers.dead("https://one/1.jpg") is None
    answers.bury("https://one/0.jpg", AWAY)
    dead = answers.dead("https://one/1.jpg")
    assert dead is not None
    assert dead.code == AWAY.code
    assert answers.dead("https://one:444/1.jpg") is answers.dead("https://two/1.jpg") is None
    answers.spoke("https://one/2.jpg")
    assert answers.dead("https://one/1.jpg") is None
    monkeypatch.setattr(module, "DEAD_S", 0.0)
    answers.bury("https://one/0.jpg", AWAY)
    assert answers.dead("https://one/1.jpg") is None


def _amz(signed: datetime, seconds: int, key: str = "AKIA") -> str:
    return (
        f"https://b.s3.example.com/0.jpg?X-Amz-Credential={key}%2F{signed:%Y%m%d}%2Feu-west-1%2Fs3%2Faws4_request"
        f"&X-Amz-Date={signed:%Y%m%dT%H%M%SZ}&X-Amz-Expires={seconds}&X-Amz-Signature=0"
    )


def test_an_expired_presigned_url_is_not_its_own_fault(store: _Store) -> None:
    now, answers = datetime.now(UTC), Answers()
    answers.heard(_amz(now, 3600).replace("0.jpg", "1.jpg"))
    assert not is_its_own(answers, _amz(datetime(2026, 1, 1, tzinfo=UTC), 3600), DENIED, signed=True, since=LONG_AGO)
    assert is_its_own(answers, _amz(now, 3600), DENIED, signed=True, since=LONG_AGO)


def test_a_key_that_was_withdrawn_is_not_its_own_fault(store: _Store) -> None:
    """Others of the same host, which another key has signed, say nothing of it."""
    now, answers = datetime.now(UTC), Answers()
    answers.heard(_amz(now, 3600, "AKIB").replace("0.jpg", "1.jpg"))
    assert not is_its_own(answers, _amz(now, 3600), DENIED, signed=True, since=LONG_AGO)
    assert not is_its_own(answers, "https://me:word@b.s3.example.com/0.jpg", DENIED, signed=True, since=LONG_AGO)
    assert is_its_own(answers, _amz(now, 3600), AWAY, signed=True, since=LONG_AGO)  # that is the network's


def test_a_signed_url_needs_an_answer_of_its_own_host(store: _Store) -> None:
    answers = Answers()
    answers.heard("https://two/0.jpg?token=2")
    answers.heard("https://one/2.jpg")  # for which no token was needed
    assert not is_its_own(answers, "https://one/0.jpg?token=1", DENIED, signed=True, since=LONG_AGO)
    answers.heard("https://one/1.jpg?token=2")
    assert is_its_own(answers, "https://one/0.jpg?token=1", DENIED, signed=True, since=LONG_AGO)


def test_store_root() -> None:
    assert store_root("s3://bucket/a/b") == "s3://bucket"
    assert store_root("https://user:password@h:80/a") == "https://h:80"
    assert store_root("/a/b") == "/a"
    assert store_root("s3://key:secret@bucket/a") == "s3://bucket"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("hf://datasets/me/private/a.tar", "hf://datasets/me/public/a.tar", False),
        ("hf://datasets/me/private/a.tar", "hf://datasets/other/private/a.tar", False),
        ("hf://datasets/me/private/a.tar", "hf://datasets/me/private@main/x/b.tar", True),
        ("hf://datasets/me/private@refs/convert/parquet/a", "hf://datasets/me/private/b", True),
        ("hf://me/model/a.jpg", "hf://me/model@v1/b/c.jpg", True),
        ("hf://me/model/a.jpg", "hf://me/other/a.jpg", False),
        ("abfss://one@account.dfs.core.windows.net/a", "abfss://two@account.dfs.core.windows.net/a", False),
        ("abfss://one@account.dfs.core.windows.net/a", "abfss://one@account.dfs.core.windows.net/x/b", True),
        ("abfs://one@a/x", "abfs://one@b/x", False),
        ("az://one/a", "az://two/a", False),
    ],
)
def test_a_store_is_what_the_same_credentials_open(one: str, other: str, *, alike: bool) -> None:
    """A token that has expired opens public repositories and containers still, and says that private ones do not exist."""
    assert (store_root(one) == store_root(other)) is alike


def test_memory_of_what_was_read_is_bounded() -> None:
    answers = Answers()
    started = time.perf_counter()
    for number in range(10_000):
        answers.heard(f"s3://b/{number}")
        answers.heard(f"https://host-{number}/x")
        answers.heard(f"/folder/{number}/x")
        answers.bury(f"https://host-{number}/x", AWAY)
    assert time.perf_counter() - started < 5
    assert len(answers._read) == module._STORES
    assert max(len(read) for read in answers._read.values()) == module._REMEMBERED
    assert len(answers._dead) <= module._STORES**2


def test_a_denied_file_among_others(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert is_its_own(Answers(), str(tmp_path / "a.jpg"), DENIED)
    os.unlink(tmp_path / "b.jpg")
    assert not is_its_own(Answers(), str(tmp_path / "a.jpg"), DENIED)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "c.jpg").write_bytes(b"x")
    assert is_its_own(Answers(), str(tmp_path / "a.jpg"), DENIED, str(tmp_path / "other" / "c.jpg"))
