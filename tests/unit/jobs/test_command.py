"""Flags, exit codes and `--json` of the jobs."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from jobs.__main__ import JOBS
from jobs.__main__ import main as maskfleet
from jobs.command import run_job, write_json
from jobs.segment import main as segment
from pipeline.config import SegmentConfig
from pipeline.errors import Damaged, Incomplete, UsageError
from pipeline.run.segment import Stopped


def test_every_setting_is_a_flag() -> None:
    flags = {option for parameter in segment.params for option in parameter.opts}
    assert {"--" + name.replace("_", "-") for name in SegmentConfig.model_fields} <= flags
    assert {"--config", "--json", "--debug"} <= flags


def test_help_names_every_flag_and_the_exit_codes() -> None:
    text = CliRunner().invoke(segment, ["--help"]).output
    assert "--input URI" in text
    assert "130/143" in text
    assert "[default: 256]" in text


def test_the_console_script_has_every_job() -> None:
    text = CliRunner().invoke(maskfleet, ["--help"]).output
    for name in JOBS:
        assert name in text
    assert CliRunner().invoke(maskfleet, ["nonsense"]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--input is required; --output is required"),
        (["--input", "x", "--output", "y", "--engine", "tpu"], "Invalid value for '--engine'"),
        (["--input", "x", "--output", "y", "--nonsense"], "No such option"),
        (["--input", "x", "--output", "y", "--config", "absent.toml"], "No such file"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(segment, arguments)
    assert result.exit_code == 2
    assert line in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("error", "code"), [(UsageError("u"), 2), (Incomplete("i"), 5), (Damaged("d"), 7), (Stopped(15), 143)])
def test_errors_are_one_line_and_their_exit_code(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_job(fail)
    assert ended.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_names_do_to_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise Incomplete("in/\x1b[2Ja\nb\u202egpj.tar: \0")

    with pytest.raises(SystemExit):
        run_job(fail)
    assert capsys.readouterr().err == "maskfleet: in/\ufffd[2Ja b\ufffdgpj.tar: \ufffd\n"


def test_debug_shows_the_traceback() -> None:
    def fail() -> int:
        raise UsageError("u")

    with pytest.raises(UsageError):
        run_job(fail, debug=True)


def test_json(tmp_path: Path) -> None:
    write_json(str(tmp_path / "a.json"), {"name": "ünïcode"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": "ünïcode"}
    write_json(None, {})
    with pytest.raises(UsageError, match="--json"):
        write_json(str(tmp_path / "absent" / "a.json"), {})


def test_a_bug_is_a_traceback() -> None:
    @click.command()
    def broken() -> None:
        run_job(lambda: 1 // 0)

    result = CliRunner().invoke(broken)
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.exit_code == 1
