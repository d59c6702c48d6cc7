"""Files: listings, range reads, and the commit that never overwrites."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from pipeline.errors import ObjectChanged, ObjectDenied, ObjectMissing, ObjectTooLarge, StorageError
from pipeline.storage.base import SCRATCH
from pipeline.storage.local import LocalStore

STORE = LocalStore()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def _touch(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_walk_is_sorted_recursive_and_says_size_and_mtime(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/10.jpg", "a.tar", "c/d/e.jpg"):
        _touch(tmp_path / name, name.encode())
    found = list(STORE.walk(f"{tmp_path}/"))
    assert [info.uri for info in found] == [f"{tmp_path}/{name}" for name in ("a.tar", "b/10.jpg", "b/2.jpg", "c/d/e.jpg")]
    assert [info.size for info in found] == [5, 8, 7, 9]
    assert found[0].version == f"mtime:{(tmp_path / 'a.tar').stat().st_mtime_ns}"


def test_walk_follows_links_once_and_passes_dangling_ones(tmp_path: Path) -> None:
    data, root = tmp_path / "data", tmp_path / "root"
    _touch(data / "x.jpg")
    root.mkdir()
    (root / "link").symlink_to(data)
    (root / "again").symlink_to(data)
    (root / "loop").symlink_to(root)
    (root / "self").symlink_to("self")
    (root / "dangling.jpg").symlink_to("nothing")
    os.mkfifo(root / "pipe.jpg")
    assert [info.uri for info in STORE.walk(str(root))] == [f"{root}/again/x.jpg"]


def test_walk_of_nothing_is_empty_and_of_a_file_an_error(tmp_path: Path) -> None:
    assert list(STORE.walk(f"{tmp_path}/absent/")) == []
    with pytest.raises(StorageError):
        list(STORE.walk(str(_touch(tmp_path / "file"))))


def test_names_of_one_folder_by_prefix(tmp_path: Path) -> None:
    for name in ("abc-2", "abc-1", "abd-1", "sub/abc-3"):
        _touch(tmp_path / name)
    assert list(STORE.names(f"{tmp_path}/abc-")) == ["abc-1", "abc-2"]
    assert list(STORE.names(f"{tmp_path}/absent/abc-")) == []


def test_stat(tmp_path: Path) -> None:
    path = _touch(tmp_path / "x", b"12345")
    info = STORE.stat(str(path))
    assert (info.uri, info.size, info.version) == (str(path), 5, f"mtime:{path.stat().st_mtime_ns}")


@pytest.mark.parametrize("name", ["absent", "file/below", "folder", "pipe", "loop", "n" * 300])
def test_what_is_no_regular_file_is_missing(tmp_path: Path, name: str) -> None:
    _touch(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ObjectMissing):
        STORE.stat(str(tmp_path / name))
    with pytest.raises(ObjectMissing):
        STORE.read(str(tmp_path / name))


def test_reading_a_folder_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(ObjectMissing):
            STORE.read(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_read_ranges(tmp_path: Path) -> None:
    uri = str(_touch(tmp_path / "x", bytes(range(100))))
    assert STORE.read(uri) == bytes(range(100))
    assert STORE.read(uri, 90) == bytes(range(90, 100))
    assert STORE.read(uri, 10, 5) == bytes(range(10, 15))
    assert STORE.read(uri, 10, 0) == b""


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    uri = str(_touch(tmp_path / "x", b"12345"))
    assert STORE.read(uri, max_bytes=5) == b"12345"
    with pytest.raises(ObjectTooLarge, match="5 bytes"):
        STORE.read(uri, max_bytes=4)


def test_a_file_shorter_than_listed_has_changed(tmp_path: Path) -> None:
    with pytest.raises(ObjectChanged, match="shorter"):
        STORE.read(str(_touch(tmp_path / "x", b"12345")), 3, 3)


def test_read_of_another_version_is_refused(tmp_path: Path) -> None:
    path = _touch(tmp_path / "x", b"12345")
    version = STORE.stat(str(path)).version
    assert STORE.read(str(path), version=version) == b"12345"
    os.utime(path, ns=(1, 1))
    with pytest.raises(ObjectChanged, match="changed"):
        STORE.read(str(path), version=version)


def test_permission_errors_are_denials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    uri = str(_touch(tmp_path / "x"))
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ObjectDenied, match="permission denied"):
        STORE.read(uri)


def test_a_folder_entry_that_fails_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path / "x.jpg")

    class _Entry:
        name, path = "x.jpg", str(tmp_path / "x.jpg")

        def is_dir(self) -> bool:
            raise OSError(5, "Input/output error")

    class _Scan(list[_Entry]):
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", lambda _: _Scan([_Entry()]))
    with pytest.raises(StorageError, match="Input/output error"):
        list(STORE.walk(str(tmp_path)))


def test_create_makes_folders_and_never_overwrites(out: Path) -> None:
    uri = str(out / "masks" / "part.parquet")
    assert STORE.create(uri, b"first")
    assert not STORE.create(uri, b"second")
    assert Path(uri).read_bytes() == b"first"


def test_scratch_files_lie_beside_the_folders_of_the_run_and_are_gone_after(out: Path) -> None:
    for folder in ("masks", "failures", "plan"):
        STORE.create(str(out / folder / "x"), b"x")
        STORE.create(str(out / folder / "x"), b"lost")
        STORE.replace(str(out / folder / "x"), b"y")
    STORE.replace(str(out / "run.json"), b"{}")
    assert sorted(os.listdir(out)) == [SCRATCH, "failures", "masks", "plan", "run.json"]
    assert os.listdir(out / SCRATCH) == []


def test_one_of_many_creators_wins_whole(out: Path) -> None:
    uri = str(out / "masks" / "part")
    barrier = threading.Barrier(8)

    def race(number: int) -> str | None:
        barrier.wait()
        return STORE.create(uri, bytes([number]) * 100_000)

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(race, range(8)))
    assert won.count(None) == 7
    assert Path(uri).read_bytes() == bytes([next(number for number, version in enumerate(won) if version)]) * 100_000


def test_what_is_committed_was_flushed_first(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, link = os.fsync, os.link

    def noted_fsync(descriptor: int) -> None:
        events.append("fsync")
        fsync(descriptor)

    def noted_link(source: str, target: str) -> None:
        events.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    STORE.create(str(out / "masks" / "x"), b"x")
    assert events == ["fsync", "link", "fsync"]  # the bytes, the name, the folder that holds the name


@pytest.mark.parametrize(("write", "place"), [(STORE.create, "link"), (STORE.replace, "replace")])
def test_a_sweep_of_another_attempt_is_outlived(
    out: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[str, bytes], object], place: str
) -> None:
    """Who is done removes the scratch folder, whoever is writing there."""
    placed, sweeps = getattr(os, place), iter([True, True])

    def swept(source: str, target: str) -> None:
        if next(sweeps, False):
            STORE.sweep(str(out))
        placed(source, target)

    monkeypatch.setattr(os, place, swept)
    write(str(out / "masks" / "x"), b"x")
    assert (out / "masks" / "x").read_bytes() == b"x"


def test_sweep(out: Path) -> None:
    STORE.create(str(out / "masks" / "x"), b"x")
    (out / SCRATCH / "left").touch()
    STORE.sweep(str(out))
    STORE.sweep(str(out))
    assert os.listdir(out) == ["masks"]
    assert os.listdir(out / "masks") == ["x"]


def test_replace_overwrites(out: Path) -> None:
    uri = str(out / "run.json")
    STORE.replace(uri, b"1")
    STORE.replace(uri, b"22")
    assert Path(uri).read_bytes() == b"22"


def test_only_what_was_seen_is_replaced(out: Path) -> None:
    uri = str(out / "run.json")
    assert not STORE.replace_if(uri, b"1", b"0")
    assert not out.exists() or os.listdir(out) == [SCRATCH]
    assert STORE.replace_if(uri, b"1", None)
    assert not STORE.replace_if(uri, b"2", None)
    assert not STORE.replace_if(uri, b"2", b"0")
    assert STORE.replace_if(uri, b"2", b"1")
    assert Path(uri).read_bytes() == b"2"
    assert os.listdir(out / SCRATCH) == []


def test_one_of_many_replaces_what_they_all_saw(out: Path) -> None:
    uri = str(out / "run.json")
    for _ in range(20):
        STORE.replace(uri, b"before")
        barrier = threading.Barrier(4)

        def race(number: int, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return STORE.replace_if(uri, bytes([number]), b"before")

        with ThreadPoolExecutor(4) as threads:
            won = list(threads.map(race, range(4)))
        assert won.count(True) == 1
        assert Path(uri).read_bytes() == bytes([won.index(True)])


@pytest.mark.parametrize("error", [None, errno.EBADF])
def test_a_lock_delays_nobody_for_long(out: Path, monkeypatch: pytest.MonkeyPatch, error: int | None) -> None:
    """Held by a process that was stopped; or there are none, as on some network mounts."""
    uri = str(out / "run.json")
    STORE.replace(uri, b"before")
    holder = os.open(out, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    if error is not None:

        def none(_descriptor: int, _how: int) -> None:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(fcntl, "flock", none)
    started = time.monotonic()
    assert STORE.replace_if(uri, b"after", b"before")
    assert time.monotonic() - started < 5
    os.close(holder)


def test_failed_writes_are_storage_errors_and_leave_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (STORE.create, STORE.replace):
        with pytest.raises(StorageError, match="No space left"):
            write(str(out / "masks" / "x"), b"x")
    assert os.listdir(out / "masks") == []
    assert os.listdir(out / SCRATCH) == []


def test_a_name_that_is_a_folder_is_not_replaced(out: Path) -> None:
    (out / "run.json").mkdir(parents=True)
    with pytest.raises(StorageError):
        STORE.replace(str(out / "run.json"), b"x")
    assert os.listdir(out / SCRATCH) == []


def test_an_output_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    _touch(tmp_path / "file")
    with pytest.raises(StorageError):
        STORE.create(str(tmp_path / "file" / "masks" / "x"), b"x")


def test_delete_does_not_mind_absence(out: Path) -> None:
    uri = str(out / "masks" / "x")
    STORE.create(uri, b"x")
    STORE.delete(uri)
    STORE.delete(uri)
    assert os.listdir(out / "masks") == []
