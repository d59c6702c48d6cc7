"""Stores that do not create exclusively are refused when an output is begun; the probe leaves nothing."""

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import NotExclusive, ObjectDenied, UsageError
from pipeline.storage.base import SCRATCH, require_exclusive_create
from pipeline.storage.local import LocalStore
from tests.support.overtaken import Overtaken, files_below

NO_LINKS = sorted({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def no_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a mount that has none."""

    def link(source: str, target: str) -> None:
        raise OSError(request.param, os.strerror(request.param), source, None, target)

    monkeypatch.setattr(os, "link", link)


def test_a_disk_is_taken_and_nothing_is_left(out: Path) -> None:
    LocalStore().require_exclusive_create(str(out))
    assert files_below(out) == {}
    assert os.listdir(out) == [SCRATCH]


@pytest.mark.parametrize("no_links", NO_LINKS, indirect=True)
@pytest.mark.usefixtures("no_links")
def test_a_mount_without_hard_links_is_named_as_that(out: Path) -> None:
    with pytest.raises(UsageError, match=r"no hard links here .*gcsfuse.*take a disk") as refused:
        LocalStore().require_exclusive_create(str(out))
    assert "permission denied" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not out.exists()


@pytest.mark.parametrize("no_links", NO_LINKS, indirect=True)
@pytest.mark.usefixtures("no_links")
def test_a_part_that_cannot_be_linked_is_no_denial(out: Path) -> None:
    """Of an output that was begun elsewhere, and copied to such a mount."""
    with pytest.raises(NotExclusive, match="no hard links here"):
        LocalStore().create(str(out / "masks" / "x"), b"x")
    assert files_below(out) == {}


@pytest.mark.parametrize("no_links", [errno.EACCES], indirect=True)
@pytest.mark.usefixtures("no_links")
def test_a_folder_that_may_not_be_written_is_a_denial(out: Path) -> None:
    with pytest.raises(ObjectDenied, match="permission denied"):
        LocalStore().require_exclusive_create(str(out))


def test_what_was_there_before_a_refusal_stays(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    monkeypatch.setattr(LocalStore, "create", lambda *_: "a version")
    with pytest.raises(UsageError, match="not one alone wins"):
        LocalStore().require_exclusive_create(str(out))
    assert files_below(out) == {"notes.txt": b"mine"}


class _Overwrites(LocalStore):
    def create(self, uri: str, data: bytes) -> str | None:
        return self.replace(uri, data)


class _LooksFirst(LocalStore):
    """In turn it keeps what is there; of several at once all win."""

    def __init__(self) -> None:
        super().__init__()
        self._looked = threading.Barrier(3)

    def create(self, uri: str, data: bytes) -> str | None:
        if os.path.exists(uri):
            return None
        self._looked.wait(10)
        return self.replace(uri, data)


class _Refuses(LocalStore):
    def create(self, uri: str, data: bytes) -> str | None:
        del uri, data
        return None


@pytest.mark.parametrize("kind", [_Overwrites, _LooksFirst, _Refuses])
def test_stores_that_do_not_hold_it_are_refused(out: Path, kind: Callable[[], LocalStore]) -> None:
    with pytest.raises(UsageError, match="what to do"):
        require_exclusive_create(kind(), str(out), "what to do")
    assert files_below(out) == {}


def test_who_may_not_delete_may_write(out: Path) -> None:
    class Keeps(LocalStore):
        def delete(self, uri: str) -> None:
            raise ObjectDenied(f"denied: {uri}")

    for _ in range(2):
        Keeps().require_exclusive_create(str(out))


def test_the_probe_of_a_killed_attempt_is_removed(out: Path) -> None:
    LocalStore().create(str(out / SCRATCH / "probe-left"), b"")
    LocalStore().require_exclusive_create(str(out))
    assert files_below(out) == {}


def test_an_attempt_that_starts_at_the_same_time_disturbs_nothing(out: Path) -> None:
    """It takes our probe for one that was left, between our creating it and our looking whether we can again."""
    removed: list[str] = []

    def other() -> None:
        removed.extend(store.names(str(out / SCRATCH / "probe-")))
        LocalStore().require_exclusive_create(str(out))

    class Overtaking(Overtaken):
        def create(self, uri: str, data: bytes) -> str | None:
            if data == b"once more":
                self._before("again", uri)
            return super().create(uri, data)

    store = Overtaking({("again", ""): other})
    store.require_exclusive_create(str(out))
    assert len(removed) == 1
    assert files_below(out) == {}


def test_many_at_once(out: Path) -> None:
    def attempt(_: int) -> None:
        LocalStore().require_exclusive_create(str(out))

    with ThreadPoolExecutor(2) as threads:
        for _ in range(20):
            list(threads.map(attempt, range(2)))
    assert files_below(out) == {}
