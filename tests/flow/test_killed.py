"""Runs that are stopped, killed, or doubled: the same command finishes them, and the result is the same."""

import json
import os
import random
import re
import shlex
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
from tests.support.terminal import Terminal

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


def _without_progress(err: str) -> list[str]:
    """The lines of stderr but those that come each 30 s."""
    return [line for line in err.splitlines() if not re.match(r"maskfleet: (\d+ min )?\d+ s: ", line)]


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
    assert _without_progress(done.err) == []
    digest = json.loads((folder / "out" / "run.json").read_text())["labels_digest"]
    return Reference(source, part_files(folder / "out"), digest, 320)


def _assert_same(out: Path, reference: Reference) -> None:
    assert part_files(out) == reference.parts
    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "complete"
    assert run["labels_digest"] == reference.digest
    assert run["counts"]["images"] == reference.images
    assert not (out / ".tmp").exists()


def _assert_stopped(out: Path, told: Path, code: int, line: str, *, least: int) -> int:
    """The state of a run that was stopped: as its last line says it, `run.json`, and `--json` -> images that are kept."""
    found = re.fullmatch(r"maskfleet: stopped; (\d+) images in (\d+) parts are kept; the same command goes on from here", line)
    assert found is not None, line
    kept, parts = map(int, found.groups())
    assert kept == parts * PART
    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "incomplete"
    assert least <= run["counts"]["images"] == run["counts"]["masks"] <= kept <= len(read_rows(out).keys)
    end = json.loads(told.read_text())
    message = "stopped; the same command goes on from here"
    assert (end["exit_code"], end["error"], end["counts"]) == (code, {"class": "Stopped", "message": message}, run["counts"])
    return kept


def test_signals_leave_a_state_that_the_same_command_finishes(reference: Reference, tmp_path: Path) -> None:
    """SIGTERM, then Ctrl-C on a terminal where it went on, then nothing: each attempt begins where the one before was stopped."""
    out, told = tmp_path / "out", tmp_path / "end.json"
    process = _start(reference.source, out, None, "--json", told)
    _wait_for_parts(out, 12, process)  # the reports of the first have reached the driver by then
    process.send_signal(signal.SIGTERM)
    stopped = _finish(process)
    assert (stopped.code, stopped.out) == (143, "")
    (line,) = _without_progress(stopped.err)
    kept = _assert_stopped(out, told, 143, line, least=5)

    command = job_command("segment", "--input", reference.source, "--output", out, *FLAGS)[1:]
    with Terminal(*command, "--json", told, columns=120) as terminal:
        terminal.wait_for(lambda text: "images/s" in text and len(part_files(out)) >= 24, timeout_s=120)
        terminal.press("\x03")  # every process of the terminal gets SIGINT, those of Ray too
        assert terminal.end(120) == 130
        assert not terminal.screen.cursor.hidden
        kept = _assert_stopped(out, told, 130, terminal.text, least=kept + 1)

    with Terminal(*command, columns=80) as terminal:
        first = r"\S [━╸╺]{4,} (\d+) of about \d+ images(, ends about \d\d:\d\d)?"
        second = r"  \d+\.\d images/s, \d+ parts, 0 failures"
        seen = terminal.wait_for(lambda text: re.fullmatch(rf"{first}\n{second}", text), timeout_s=120)
        assert int(re.findall(r"\d+", seen)[0]) > kept  # what is done of the whole run
        assert terminal.end(120) == 0
        last = "".join(terminal.text.split("output", 1)[1].splitlines())  # long paths go on in the next line
        commands = [["next", "python", "-m", f"jobs.{job}", str(out)] for job in ("look", "verify")]
        assert shlex.split(last) == [str(out), *commands[0], *commands[1]]
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
