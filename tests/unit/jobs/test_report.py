"""`--json FILE` tells of every end, and never of an earlier one."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobs.__main__ import main as maskfleet
from jobs.command import run_job
from jobs.report import Report
from jobs.segment import main as segment
from jobs.verify import main as verify
from pipeline.driver.attempt import Outcome
from pipeline.errors import BudgetExceeded, Incomplete, NotReachable, RunMismatch, UsageError
from pipeline.stopped import Stopped


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of an earlier run."""
    path = tmp_path / "end.json"
    path.write_text('{"exit_code": 0, "state": "complete"}')
    return path


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert os.listdir(path.parent) == [path.name]  # no scratch file beside it
    return found


def _ends(file: Path, job: Callable[[Report], int]) -> int:
    report = Report(str(file))

    def begun() -> int:
        assert not file.exists()  # from the start on
        return job(report)

    with pytest.raises(SystemExit) as ended:
        run_job(begun, report=report)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def _raises(error: BaseException) -> Callable[[Report], int]:
    def job(report: Report) -> int:
        report.values = {"counts": {"images": 3}}
        raise error

    return job


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (UsageError("what\nto do"), 2, "UsageError"),
        (RunMismatch("other settings"), 2, "RunMismatch"),
        (BudgetExceeded("too many"), 3, "BudgetExceeded"),
        (NotReachable("gone"), 4, "NotReachable"),
        (Incomplete("stalled"), 5, "Incomplete"),
        (Stopped(15), 143, "Stopped"),
        (Stopped(2), 130, "Stopped"),
        (KeyboardInterrupt(), 130, "KeyboardInterrupt"),
    ],
)
def test_every_error_is_told_with_what_is_known(file: Path, error: BaseException, code: int, name: str) -> None:
    assert _ends(file, _raises(error)) == code
    found = _read(file)
    assert (found["exit_code"], found["error"]["class"], found["counts"]) == (code, name, {"images": 3})
    assert found["error"]["message"]


def test_a_bug_is_told_too(file: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_job(lambda: 1 // 0, report=Report(str(file)))
    assert _read(file) == {
        "exit_code": 1,
        "error": {"class": "ZeroDivisionError", "message": "integer division or modulo by zero"},
    }


def test_a_good_end_has_no_error(file: Path) -> None:
    def job(report: Report) -> int:
        report.values = {"name": "ünïcode", "surrogate": "\udce9"}
        return 0

    assert _ends(file, job) == 0
    assert _read(file) == {"name": "ünïcode", "surrogate": "\udce9", "exit_code": 0}


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run_job(lambda: 0)
    assert os.listdir(tmp_path) == []


def _absent(folder: Path) -> Path:
    return folder / "absent" / "end.json"


def _is_a_folder(folder: Path) -> Path:
    (folder / "end.json").mkdir()
    return folder / "end.json"


@pytest.mark.parametrize("place", [_absent, _is_a_folder])
def test_what_cannot_be_written_is_exit_2_before_anything_starts(
    tmp_path: Path, place: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def job() -> int:
        raise AssertionError("it has started")

    with pytest.raises(SystemExit) as ended:
        run_job(job, report=Report(str(place(tmp_path))))
    assert ended.value.code == 2
    assert "--json" in capsys.readouterr().err


def test_what_cannot_be_written_at_the_end_is_said_and_hides_no_other_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "goes"
    for code, wanted in ((0, 2), (5, 5)):
        folder.mkdir()

        def job(code: int = code) -> int:
            folder.rmdir()
            return code

        with pytest.raises(SystemExit) as ended:
            run_job(job, report=Report(str(folder / "end.json")))
        assert ended.value.code == wanted
        assert "--json" in capsys.readouterr().err


def test_a_link_stays_one_and_so_do_pipes_and_devices(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target.json", tmp_path / "link.json", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (str(link), str(pipe), os.devnull):
        report = Report(path)
        report.begin()
        assert not target.exists() or path != str(link)
        report.values = {"is": path}
        report.end(0, None)
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"is": str(link), "exit_code": 0}
    assert json.loads(os.read(reader, 1000)) == {"is": str(pipe), "exit_code": 0}
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    os.close(reader)


def test_a_file_that_is_a_mount_by_itself_is_emptied_and_written_in_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(path: str) -> None:
        raise OSError(16, "Device or resource busy", path)

    monkeypatch.setattr(os, "unlink", busy)
    report = Report(str(file))
    report.begin()
    assert file.read_bytes() == b""
    report.end(5, ("Incomplete", "again"))
    assert _read(file) == {"exit_code": 5, "error": {"class": "Incomplete", "message": "again"}}


# --- the jobs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--engine", "tpu"], "Invalid value for '--engine'"),
        (["--nonsense"], "No such option"),
        (["--limit"], "requires an argument"),
        (["--part-images", "0"], "--part-images"),
        (["--config", "absent.toml"], "No such file"),
        (["--confidence-map", "--min-confidence", "2"], "--min-confidence"),
    ],
)
@pytest.mark.parametrize("spelt", ["{}", "={}"])
@pytest.mark.parametrize("through", [segment, maskfleet])
def test_wrong_flags_are_told(file: Path, arguments: list[str], part: str, spelt: str, through: Any) -> None:
    name = ["--json", str(file)] if spelt == "{}" else [f"--json={file}"]
    begin = ["segment"] if through is maskfleet else []
    result = CliRunner().invoke(through, [*begin, *name, "--input", "x", "--output", "y", *arguments])
    assert result.exit_code == 2
    found = _read(file)
    assert (found["exit_code"], found["error"]["class"]) == (2, "UsageError")
    assert part in found["error"]["message"]


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--nonsense", "--", "--json", "x"]])
def test_wrong_flags_without_a_file_are_wrong_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for job in (segment, verify):
        assert CliRunner().invoke(job, arguments).exit_code == 2
    assert os.listdir(tmp_path) == []


def test_wrong_flags_are_told_to_a_device_too() -> None:
    before = sorted(os.listdir("/dev"))
    assert CliRunner().invoke(verify, ["--json", os.devnull]).exit_code == 2
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert sorted(os.listdir("/dev")) == before


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_an_input_that_is_not_there_is_told(file: Path, tmp_path_factory: pytest.TempPathFactory, more: list[str]) -> None:
    folder = tmp_path_factory.mktemp("x")
    given = ["--input", str(folder / "absent"), "--output", str(folder / "out"), "--weights", "bundled", "--short-side", "64"]
    result = CliRunner().invoke(segment, [*given, *more, "--json", str(file)])
    assert result.exit_code == 4
    found = _read(file)
    assert (found["exit_code"], found["error"]["class"]) == (4, "NotReachable")
    assert "nothing to label there" in found["error"]["message"]


@pytest.mark.parametrize("known", [None, {"state": "incomplete", "counts": {"images": 3}}])
@pytest.mark.parametrize("error", [Incomplete("no part was committed for 30 minutes"), Stopped(15)])
def test_stalls_and_signals_are_told_with_the_counts_so_far(
    file: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, error: BaseException, known: Any
) -> None:
    def run(_: object) -> Outcome:
        raise error

    monkeypatch.setattr("pipeline.driver.attempt.Attempt.run", run)
    monkeypatch.setattr("pipeline.driver.attempt.Attempt.interrupt", lambda _: known)
    out = tmp_path_factory.mktemp("x")
    result = CliRunner().invoke(segment, ["--input", "x", "--output", str(out), "--json", str(file)])
    assert result.exit_code == error.exit_code  # type: ignore[attr-defined]
    found = _read(file)
    assert found["error"]["class"] == type(error).__name__
    assert {name: found.get(name) for name in ("state", "counts")} == (known or {"state": None, "counts": None})


def test_a_signal_before_the_job_has_begun_is_told(file: Path) -> None:
    """In a process of its own, which is what a signal ends."""
    code = (
        "import os, signal, sys, jobs.segment as job; "
        "job.load_config = lambda *_: os.kill(os.getpid(), signal.SIGTERM); job.main(['--json', sys.argv[1]])"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, timeout=120).returncode == 143
    assert _read(file)["error"]["class"] == "Stopped"


@pytest.mark.parametrize(("arguments", "code"), [(["absent"], 4), (["gs://x/y", "--repair"], 2), ([], 2), (["x", "--deeper"], 2)])
def test_verify_tells_of_its_ends_too(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, arguments: list[str], code: int
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("x"))
    result = CliRunner().invoke(verify, [*arguments, "--json", str(file)])
    assert result.exit_code == code
    assert _read(file)["exit_code"] == code
    assert _read(file)["error"]["message"]
