"""Runs that are stopped, killed, or doubled: the same command finishes them, and the result is the same."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, Finished, job_command
from tests.support.runs import part_files, read_rows, write_tars

PART = 8
FLAGS = ("--weights", "bundled", "--short-side", 128, "--part-images", PART, "--workers", 2)


@dataclass(frozen=True, slots=True)
class Reference:
    """An undisturbed run: its input, its parts, its digest."""

    source: Path
    parts: dict[str, bytes]
    digest: str
    images: int


def _start(source: Path, out: Path, trace: Path | None = None, *more: object) -> "subprocess.Popen[str]":
    env = os.environ | ({"MASKFLEET_TRACE": str(trace)} if trace else {})
    command = job_command("segment", "--input", source, "--output", out, *FLAGS, *more)
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _finish(process: "subprocess.Popen[str]") -> Finished:
    out, err = process.communicate(timeout=240)
    return Finished(process.returncode, out, err)


def _wait_for_parts(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while len(part_files(out)) < count:
        assert process.poll() is None, _finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _traced(trace: Path) -> int:
    """Images that went through the network, over all attempts."""
    return sum(json.loads(line)["inferred"] for line in trace.read_text().splitlines())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """8 shards of 40 images."""
    folder = tmp_path_factory.mktemp("reference")
    source = write_tars(folder / "in", 8, 40)
    done = _finish(_start(source, folder / "out"))
    assert done.code == 0, done
    assert [line for line in done.err.splitlines() if not re.match(r"maskfleet: \d+ s: ", line)] == []  # progress, each 30 s
    digest = json.loads((folder / "out" / "run.json").read_text())["labels_digest"]
    return Reference(source, part_files(folder / "out"), digest, 320)


def _assert_same(out: Path, reference: Reference) -> None:
    assert part_files(out) == reference.parts
    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "complete"
    assert run["labels_digest"] == reference.digest
    assert run["counts"]["images"] == reference.images
    assert not (out / ".tmp").exists()


def test_signals_leave_a_state_that_the_same_command_finishes(reference: Reference, tmp_path: Path) -> None:
    """SIGTERM, then SIGINT where it went on, then nothing: each attempt begins where the one before was stopped."""
    out, told, least = tmp_path / "out", tmp_path / "end.json", 5
    for number, code, parts in ((signal.SIGTERM, 143, 12), (signal.SIGINT, 130, 24)):
        process = _start(reference.source, out, None, "--json", told)
        _wait_for_parts(out, parts, process)  # the reports of the first have reached the driver by then
        process.send_signal(number)
        stopped = _finish(process)
        assert stopped.code == code
        assert "the same command goes on from here" in stopped.err
        assert "Traceback" not in stopped.err
        run = json.loads((out / "run.json").read_text())
        assert run["state"] == "incomplete"
        assert least <= run["counts"]["images"] == run["counts"]["masks"] <= len(read_rows(out).keys)
        least = run["counts"]["images"] + 1
        end = json.loads(told.read_text())
        assert (end["exit_code"], end["error"]["class"], end["counts"]) == (code, "Stopped", run["counts"])
    assert _finish(_start(reference.source, out)).code == 0
    _assert_same(out, reference)


def test_a_killed_worker_costs_at_most_its_part_and_none_imports_torch(reference: Reference, tmp_path: Path) -> None:
    out, trace = tmp_path / "out", tmp_path / "trace"
    process = _start(reference.source, out, trace)
    _wait_for_parts(out, 3, process)
    driver = psutil.Process(process.pid)
    workers = [child for child in driver.children(recursive=True) if "MapWorker" in child.name() + "".join(child.cmdline())]
    assert len(workers) == 2
    loaded = [{map_.path for map_ in each.memory_maps()} for each in (driver, *workers)]
    assert all(any("openvino" in file for file in files) for files in loaded[1:])
    assert not [file for files in loaded for file in files if "libtorch" in file]
    workers[0].kill()
    done = _finish(process)
    assert done.code == 0, done
    _assert_same(out, reference)
    assert _traced(trace) <= reference.images + 2 * PART


def test_two_at_once_end_with_one_right_result(reference: Reference, tmp_path: Path) -> None:
    out, trace = tmp_path / "out", tmp_path / "trace"
    both = [_start(reference.source, out, trace) for _ in range(2)]
    assert [done.code for done in map(_finish, both)] == [0, 0]
    _assert_same(out, reference)
    assert len(read_rows(out).keys) == len(set(read_rows(out).keys)) == reference.images
    assert _traced(trace) <= 1.3 * reference.images


@pytest.mark.slow
def test_three_kills_of_the_driver_and_the_same_command(reference: Reference, tmp_path: Path) -> None:
    out, trace = tmp_path / "out", tmp_path / "trace"
    moments = random.Random(6)
    kills = 0
    for _ in range(3):
        process = _start(reference.source, out, trace)
        _wait_for_parts(out, len(part_files(out)) + 1 + moments.randrange(8), process)
        time.sleep(moments.random())
        process.kill()
        process.communicate()
        kills += 1
        time.sleep(2)  # Ray's processes notice that their driver is gone
    assert _finish(_start(reference.source, out, trace)).code == 0
    _assert_same(out, reference)
    assert _traced(trace) <= reference.images + kills * 2 * 2 * PART


def test_a_cluster_of_one_cpu_labels_too(reference: Reference, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import ray; ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False)\n"
        "import sys; from jobs.segment import main; main(sys.argv[1:])"
    )
    flags = [flag for flag in map(str, FLAGS) if flag not in ("--workers", "2")]
    command = [sys.executable, "-c", script, "--input", str(reference.source), "--output", str(out), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done
    _assert_same(out, reference)
