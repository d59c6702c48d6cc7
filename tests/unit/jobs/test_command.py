"""Flags, exit codes and `--json` of the jobs."""

import re
import shlex
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from jobs.__main__ import JOBS
from jobs.__main__ import main as maskfleet
from jobs.command import METAVARS, Flag, run_job
from jobs.look import main as look
from jobs.segment import main as segment
from jobs.verify import main as verify
from pipeline.config import InputFormat, SegmentConfig, groups_of
from pipeline.errors import Damaged, Incomplete, UsageError
from pipeline.model.zoo import Model
from pipeline.stopped import Stopped


def test_every_setting_is_a_flag() -> None:
    flags = {option for parameter in segment.params for option in parameter.opts}
    assert {"--" + name.replace("_", "-") for name in SegmentConfig.model_fields} <= flags
    assert {"--config", "--json", "--debug"} <= flags


def test_help_names_every_flag_and_the_exit_codes() -> None:
    text = CliRunner().invoke(segment, ["--help"]).output
    assert "--input URI" in text
    assert "130/143" in text
    assert "--workers N|MIN:MAX" in text
    assert "[default: 256]" in text


def _help(columns: int, command: click.Command = segment, name: str = "maskfleet segment") -> str:
    return CliRunner().invoke(command, ["--help"], prog_name=name, env={"COLUMNS": str(columns)}).output


@pytest.mark.parametrize("columns", [80, 120])
def test_each_flag_stands_below_the_title_of_its_group(columns: int) -> None:
    sections = {part.split(":\n")[0].strip(): part for part in _help(columns).split("\n\n")}
    assert list(sections)[-8:] == ["Input", "Network", "Labels", "Run", "Limits", "Forecast", "General", "Examples"]
    for title, fields in groups_of(SegmentConfig).items():
        shown = re.findall(r"^  --(\[no-\])?([a-z-]+)", sections[title], re.MULTILINE)
        assert [flag.replace("-", "_") for _, flag in shown] == list(fields)
    assert re.findall(r"^  (\S+)", sections["General"], re.MULTILINE) == ["--config", "--json", "--debug", "-h,"]


@pytest.mark.parametrize("columns", [80, 120])
def test_help_keeps_its_two_columns_and_the_width(columns: int) -> None:
    text = _help(columns)
    lines = text.split("Input:\n")[1].split("Examples:")[0].splitlines()
    (begin,) = {found.end() for line in lines if (found := re.match(r"  -.*?  +(?=\S)", line))}
    for line in lines:
        assert re.match(rf"  -.{{{begin - 5}}}  \S|\s{{{begin}}}\S|[A-Z][a-z]+:$|$", line), line  # no text below its own flag
    assert max(map(len, text.splitlines())) <= min(columns, 110)
    assert max(map(len, _help(columns, name="python -m jobs.segment").splitlines())) <= columns
    assert not {"\xa0", "\u2011"} & set(text)  # what is copied from it is what a shell takes


@pytest.mark.parametrize("columns", [80, 120])
def test_help_tears_no_default_and_no_flag(columns: int) -> None:
    text = _help(columns)
    assert re.findall(r"\[default:[^]]*$", text, re.MULTILINE) == []
    assert re.findall(r"--[a-z-]*-$", text, re.MULTILINE) == []


def test_help_names_every_choice() -> None:
    text = _help(80)
    for choice in [*get_args(Model), *get_args(InputFormat)]:
        assert re.search(rf"(?<![\w]){choice}(?![\w])", text), choice
    assert "--engine openvino|torch" in text


def test_every_flag_says_what_it_takes() -> None:
    takes = {option.name: option.metavar for option in segment.params if isinstance(option, Flag) and not option.is_flag}
    assert not [name for name, metavar in takes.items() if metavar is None or "TEXT" in metavar]
    assert set(METAVARS) <= set(takes)


@pytest.mark.parametrize(("name", "command"), [("segment", segment), ("verify", verify), ("look", look)])
def test_the_examples_are_command_lines_of_the_job(name: str, command: click.Command) -> None:
    lines = re.findall(
        rf"^    maskfleet {name} (.*)$", _help(80, command, f"maskfleet {name}").split("Examples:\n")[1], re.MULTILINE
    )
    assert len(lines) == 2
    for line in lines:
        context = command.make_context(name, shlex.split(line))
        assert context.params.get("output") or context.params.get("out")


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


def test_stopped_says_what_is_kept_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        stopped = Stopped(2)
        stopped.add_note("512 images in 2 parts are kept")
        raise stopped

    with pytest.raises(SystemExit) as ended:
        run_job(fail)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "maskfleet: stopped; 512 images in 2 parts are kept; the same command goes on from here\n"


def test_what_names_do_to_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise Incomplete("in/\x1b[2Ja\nb\u202egpj.tar: \0")

    with pytest.raises(SystemExit):
        run_job(fail)
    assert capsys.readouterr().err == "maskfleet: in/\ufffd[2Ja b\ufffdgpj.tar: \ufffd\n"


def test_debug_shows_the_traceback_and_keeps_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise UsageError("u")

    with pytest.raises(SystemExit) as ended:
        run_job(fail, debug=True)
    assert ended.value.code == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_a_traceback() -> None:
    @click.command()
    def broken() -> None:
        run_job(lambda: 1 // 0)

    result = CliRunner().invoke(broken)
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.exit_code == 1


# --- what a config file sets, and a flag takes back ------------------------------------------------------------

CONFIG = """
input = "in"
output = "out"
confidence-map = true
fast-decode = true
limit = 7
workers = 3
short-side = 99
usd-per-core-hour = 0.5
image-column = "photo"
id-column = "key"
image-ext = "jpg"
classes = "names.txt"
allow-root = ["s3://a", "s3://b"]
"""


def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *flags: str, text: str = CONFIG) -> SegmentConfig:
    """What `segment` makes of these flags over the file."""
    (tmp_path / "c.toml").write_text(text)
    made: list[SegmentConfig] = []

    def label(config: SegmentConfig, **_: object) -> None:
        made.append(config)
        raise Incomplete("that was all")

    monkeypatch.setattr("jobs.segment.label", label)
    result = CliRunner().invoke(segment, ["--config", str(tmp_path / "c.toml"), *flags])
    assert result.exit_code == 5, result.output
    return made[0]


def test_switches_of_a_file_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = _config(tmp_path, monkeypatch)
    assert (there.confidence_map, there.fast_decode) == (True, True)
    off = _config(tmp_path, monkeypatch, "--no-confidence-map", "--no-fast-decode")
    assert (off.confidence_map, off.fast_decode) == (False, False)
    on = _config(tmp_path, monkeypatch, "--confidence-map", text='input = "in"\noutput = "out"\nconfidence-map = false')
    assert on.confidence_map


OPTIONAL = [
    name for name, field in SegmentConfig.model_fields.items()
    if (field.default is None or field.default == ()) and not field.is_required() and name != "redo"
]  # fmt: skip


@pytest.mark.parametrize("name", OPTIONAL)
def test_none_takes_back_what_a_file_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert getattr(_config(tmp_path, monkeypatch), name) not in (None, ())
    taken_back = _config(tmp_path, monkeypatch, "--" + name.replace("_", "-"), "none")
    assert getattr(taken_back, name) == SegmentConfig.model_fields[name].default
    assert taken_back == _config(tmp_path, monkeypatch).model_copy(update={name: SegmentConfig.model_fields[name].default})


def test_a_flag_still_has_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path, monkeypatch, "--limit", "9", "--allow-root", "s3://c", "--allow-root", "s3://d", "--input", "none")
    assert (config.limit, config.allow_root, config.input) == (9, ("s3://c", "s3://d"), ("none",))
    assert _config(tmp_path, monkeypatch, text=CONFIG.replace('"photo"', '"none"')).image_column == "none"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--limit", "nothing"], "Invalid value for '--limit': 'nothing' is not a valid integer"),
        (["--limit", ""], "Invalid value for '--limit'"),  # an empty variable of a script is no wish
        (["--part-images", "none"], "Invalid value for '--part-images'"),
        (["--allow-root", "none", "--allow-root", "s3://a"], "none stands alone"),
        (["--no-dry-run"], "No such option"),
    ],
)
def test_what_is_no_value_is_exit_2(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(segment, ["--input", "x", "--output", "y", *arguments])
    assert result.exit_code == 2
    assert line in result.output


def test_help_says_how_to_take_back() -> None:
    text = " ".join(CliRunner().invoke(segment, ["--help"]).output.split())
    for part in ("--[no-]confidence-map", "--limit N|none", "--allow-root URI|none", "none take back"):
        assert part in text
