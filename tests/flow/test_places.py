"""Outputs that are full, closed or in the way, and a clock that jumps: a clear line, and the same command goes on."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.verify.verify import verify
from tests.conftest import Finished
from tests.support.runs import part_files, read_rows, segment, write_tars
from tests.support.tars import photos

FLAGS = ("--weights", "bundled", "--short-side", 64, "--part-images", 4, "--workers", 2)
SIZE = 4 << 20


def _mount(folder: Path, *options: str) -> None:
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount(folder, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 shards of 20 images."""
    return write_tars(tmp_path_factory.mktemp("places") / "in", 4, 20)


@pytest.fixture(scope="module")
def undisturbed(source: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert segment(source, out).error is None
    return part_files(out)


@pytest.mark.slow
def test_a_disk_that_is_full_is_exit_5_and_room_lets_it_go_on(
    source: Path, undisturbed: dict[str, bytes], disk: Path, job: Callable[..., Finished]
) -> None:
    half = sum((len(data) + 4095) // 4096 * 4096 for data in undisturbed.values()) // 2
    (disk / "ballast").write_bytes(bytes(SIZE - half - (64 << 10)))
    command = ("--input", source, "--output", disk / "out", *FLAGS)
    done = job("segment", *command)
    assert done.code == 5, done
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err
    there = part_files(disk / "out")
    assert 0 < len(there) < len(undisturbed)
    assert there.items() <= undisturbed.items()  # whole ones only
    assert verify(str(disk / "out")).exit_code == 5
    (disk / "ballast").unlink()
    assert job("segment", *command).code == 0
    assert part_files(disk / "out") == undisturbed
    assert verify(str(disk / "out"), deep=True).exit_code == 0


def test_a_disk_that_is_full_from_the_start_is_exit_4(source: Path, disk: Path, job: Callable[..., Finished]) -> None:
    (disk / "ballast").write_bytes(bytes(SIZE))
    done = job("segment", "--input", source, "--output", disk / "out", *FLAGS)
    assert (done.code, len(done.err.splitlines())) == (4, 1), done
    assert "No space left on device" in done.err


@pytest.mark.slow
def test_an_output_that_is_read_only_is_exit_4(source: Path, disk: Path, job: Callable[..., Finished]) -> None:
    _mount(disk, "-o", "remount,ro")
    done = job("segment", "--input", source, "--output", disk / "out", *FLAGS)
    assert (done.code, len(done.err.splitlines())) == (4, 1), done
    assert "permission denied" in done.err


@pytest.mark.usefixtures("local_ray")
def test_an_output_inside_of_its_input_is_not_labelled(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "in" / "labels"
    source.mkdir()
    for name, data in photos(6):
        (source / name).write_bytes(data)
    assert segment(source, out).error is None
    (source / "new.jpg").write_bytes(photos(1, first=9)[0][1])
    outcome = segment(source, out)
    assert outcome.error is None
    assert outcome.run["counts"]["images"] == 7
    assert len(set(read_rows(out).keys)) == 7


@pytest.mark.usefixtures("local_ray")
def test_a_clock_that_jumps_changes_nothing(
    source: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = time.time, 0

    def jumping() -> float:
        nonlocal calls
        calls += 1
        return real() + (86_400.0 * calls if calls % 2 else -86_400.0 * calls)

    class Clock:
        time = staticmethod(jumping)

        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

    monkeypatch.setattr("pipeline.driver.progress.time", Clock())
    outcome = segment(source, tmp_path / "out")
    assert outcome.error is None
    assert calls >= 3
    assert 0 < outcome.run["attempts"][-1]["seconds"] < 600
    assert part_files(tmp_path / "out") == undisturbed
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "complete"
