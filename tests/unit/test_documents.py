"""What the documents say is there: links, commands, flags, targets of make, rooms, columns, errors, commits."""

import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from jobs.__main__ import main as maskfleet
from pipeline import errors
from pipeline.config import load_config
from pipeline.schema import CLASS_STATS, FAILURES, PLAN, masks_schema
from tests.conftest import ROOT
from tests.support.documents import DOCUMENTS, FILES, LIVING, anchors, blocks, git, prose, spans, tables, text_of
from tests.support.flags_document import DOCUMENT as FLAGS_DOCUMENT
from tests.support.flags_document import commands, with_flags

README_LINES = 130
FOREIGN_FLAGS = {  # of `ray job submit` and `uv pip install`
    "--working-dir", "--entrypoint-num-cpus", "--submission-id", "--runtime-env-json", "--torch-backend",
}  # fmt: skip
T = TypeVar("T")
GOLDEN = ROOT / "tests" / "golden" / "format2" / "complete"

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_RATE = re.compile(
    r"\b(ms|s|seconds|bytes|[kKMG]i?B|USD|requests?|images|images/s|rows?|lines?) an? (image|core|second|part|row|worker)\b"
)


# --- links ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    folders = {str(parent) for file in FILES for parent in Path(file).parents}
    for target in _LINK.findall(re.sub(r"`[^`]*`", "", prose(text_of(name)))):
        path, _, anchor = target.partition("#")
        if re.match(r"https?://", path):
            continue  # the rest of the web is not ours
        there = str(((ROOT / name).parent / path).resolve().relative_to(ROOT)) if path else name
        assert there in FILES or there in folders, f"{name} links to {target}"
        if anchor:
            assert anchor in anchors(text_of(there)), f"{name} links to {target}, which has no such heading"


def test_anchors_are_those_of_github() -> None:
    text = (
        "# A `b_c`: d\n```sh\n# no heading\n```\n## What was checked, and what was not\n## Twice\n## Twice\n## [run.json](x.md)\n"
    )
    assert anchors(text) == {"a-b_c-d", "what-was-checked-and-what-was-not", "twice", "twice-1", "runjson"}


# --- commands ------------------------------------------------------------------------------------------------


def _command_lines(text: str) -> Iterator[str]:
    """The lines of blocks of shell, and the code within sentences."""
    for block in blocks(text, "sh", "bash"):
        yield from block.replace("\\\n", " ").splitlines()
    yield from spans(text)


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:  # a quote that is none of a shell's
        return line.split()


def _calls(text: str) -> Iterator[list[str]]:
    """Each call of a command of ours: `maskfleet …` or the module, and its arguments."""
    for line in _command_lines(text):
        words = _words(line)
        for at, (word, following) in enumerate(pairwise(words)):
            is_module = word == "-m" and re.fullmatch(r"(jobs|tests|pipeline)(\.\w+)*", following)
            if is_module or (word.rpartition("/")[2] == "maskfleet" and re.fullmatch(r"[a-z-]+", following)):
                rest = words[at + 2 if is_module else at + 1 :]
                end = next((number for number, word in enumerate(rest) if re.fullmatch(r"[();<>|&]+", word)), len(rest))
                yield [following if is_module else "maskfleet", *rest[:end]]


def _command(call: list[str]) -> click.Command:
    """The command that a call ends at. Raises `AssertionError` if there is none."""
    name, *arguments = call
    if name == "maskfleet":
        command: click.Command = maskfleet
    else:
        is_package = (ROOT / name.replace(".", "/") / "__main__.py").is_file()
        command = importlib.import_module(f"{name}.__main__" if is_package else name).main
    for word in arguments:
        if not isinstance(command, click.Group):
            break
        if word.startswith("-"):
            continue
        found = command.get_command(click.Context(command), word)
        assert found is not None, f"{' '.join(call)}: no command {word}"
        command = found
    return command


def _flags(command: click.Command) -> set[str]:
    return {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}


def _given(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}


@pytest.mark.parametrize("name", LIVING)
def test_commands_have_help_and_the_flags_that_are_named(name: str) -> None:
    for call in _calls(text_of(name)):
        command = _command(call)
        result = CliRunner().invoke(command, ["--help"])
        assert result.exit_code == 0, f"{name}: {' '.join(call)}: {result.output}"
        assert "Usage" in result.output
        assert _given(call) <= _flags(command), f"{name}: {' '.join(call)}"


def test_commands_are_found_and_missed() -> None:
    text = "`maskfleet verify OUT --deep` `maskfleet` `maskfleet nothing --x` `python -m jobs.bench peers --y` at commit `1`\n"
    text += "```sh\nray job submit -- \\\n  python -m jobs.segment --input a --nonsense=1 | tee --log # --deep\n```\n"
    calls = list(_calls(text))
    assert calls == [
        ["jobs.segment", "--input", "a", "--nonsense=1"],
        ["maskfleet", "verify", "OUT", "--deep"],
        ["maskfleet", "nothing", "--x"],
    ]
    assert _given(calls[0]) - _flags(_command(calls[0])) == {"--nonsense"}
    with pytest.raises(AssertionError, match="no command nothing"):
        _command(calls[2])


@pytest.mark.parametrize("name", LIVING)
def test_flags_in_sentences_exist(name: str) -> None:
    text = text_of(name)
    known = (FOREIGN_FLAGS | _flags(maskfleet)).union(*(_flags(command) for _, command in commands(maskfleet)))
    known = known.union(*(_flags(_command(call)) for call in _calls(text)))
    named = {flag for code in spans(text) for flag in _given(code.split())}
    assert not named - known - {"--no-…"}


@pytest.mark.parametrize("name", LIVING)
def test_targets_of_make_exist(name: str) -> None:
    makefile = text_of("Makefile")
    targets = {target for line in re.findall(r"^([\w -]+):(?!=)", makefile, re.MULTILINE) for target in line.split()}
    variables = re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)
    for words in map(_words, _command_lines(text_of(name))):
        if words[:1] == ["make"]:
            for word in words[1:]:
                variable, given, _ = word.partition("=")
                assert variable in (variables if given else targets), f"{name}: {' '.join(words)}"


# --- what a document says of the code ------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= README_LINES


def test_the_tables_of_flags_are_those_of_the_commands() -> None:
    written = FLAGS_DOCUMENT.read_text()
    assert written == with_flags(written), "run python -m tests.support.flags_document"


def _plain(cell: str) -> str:
    return cell.replace("`", "")


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("`masks/`", masks_schema(confidence_map=True)),
        ("`failures/`", FAILURES),
        ("`class_stats.parquet`", CLASS_STATS),
        ("`plan/`", PLAN),
        ("`checkpoint.parquet`", pq.read_schema(GOLDEN / "checkpoint.parquet")),
    ],
)
def test_columns_are_those_of_the_schema(heading: str, schema: pa.Schema) -> None:
    rows = tables(text_of("pipeline/output/README.md"), heading)[0]
    types = {column.name: str(column.type).replace("<item:", "<element:") for column in schema}  # as Parquet names items of lists
    assert {_plain(name): _plain(kind) for name, kind, _ in rows} == types
    assert [_plain(name) for name, _, _ in rows] == list(types)


def test_keys_are_those_of_run_json() -> None:
    run = json.loads((GOLDEN / "run.json").read_text())
    rows = {_plain(key): text for key, text in tables(text_of("pipeline/output/README.md"), "`run.json`")[0]}
    assert list(rows) == list(run)
    assert set(re.findall(r"`(\w+)`", rows["counts"])) == set(run["counts"])
    assert set(re.findall(r"`(\w+)`", rows["attempts"])) == set(run["attempts"][0])
    assert set(re.findall(r"`(\w+)`", rows["weights"])) == set(run["weights"])


def _below(kind: type[T]) -> set[type[T]]:
    found: set[type[T]] = set()
    for child in kind.__subclasses__():
        found |= {child} | _below(child)
    return found


def test_errors_of_images_are_those_that_are_raised() -> None:
    table = tables(text_of("pipeline/output/README.md"), "`failures/`")[1]
    expected = {(kind.__name__, kind.stage) for kind in _below(errors.BadImage) - {errors.ReadFailure}}
    assert {(_plain(name), stage) for name, stage, _ in table} == expected


@pytest.mark.parametrize("file", sorted((ROOT / "jobs" / "configs").glob("*.toml")), ids=lambda file: file.name)
def test_examples_of_config_files_are_read(file: Path) -> None:
    assert load_config({"input": ("in",), "output": "out"}, str(file)).input == ("in",)


def test_exit_codes_are_those_of_the_errors() -> None:
    codes = {int(code) for row in tables(text_of("jobs/README.md"), "Exit codes")[0] for code in row[0].split(",")}
    assert codes == {kind.exit_code for kind in _below(errors.MaskfleetError)} | {0, 130, 143}


def test_rooms_are_those_that_are_there() -> None:
    rooms = {_plain(room).rstrip("/"): text for room, text in tables(text_of("pipeline/README.md"), "Rooms")[0]}
    assert set(rooms) == {folder.parent.name for folder in (ROOT / "pipeline").glob("*/__init__.py")}
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if "pipeline.config" in contract.get("layers", ()))
    names = [name.removeprefix("pipeline.") for layer in layers for name in layer.split(" | ")]
    assert list(rooms) == [name for name in names if name in rooms], "imports point down the table"
    for room, text in rooms.items():
        for file in re.findall(r"`(\w+\.py)`", text):
            assert (ROOT / "pipeline" / room / file).is_file(), f"{room}/{file}"


@pytest.mark.parametrize("name", LIVING)
def test_files_of_rooms_that_are_named_are_there(name: str) -> None:
    rooms = {folder.parent.name for folder in (ROOT / "pipeline").glob("*/__init__.py")}
    for span in spans(text_of(name)):
        if re.fullmatch(r"(pipeline|tests|jobs|infra)/[\w./-]+", span):
            assert (ROOT / span).exists(), f"{name} names {span}"
        elif re.fullmatch(r"\w+/\w+\.py", span) and span.partition("/")[0] in rooms:
            assert (ROOT / "pipeline" / span).is_file(), f"{name} names {span}"


def test_decisions_name_commits() -> None:
    text = text_of("pipeline/DECISIONS.md")
    commits = set(re.findall(r"`([0-9a-f]{7,40})`", text))
    assert len(commits) > 10
    if (git("rev-parse", "--is-shallow-repository") or "true").strip() == "false":  # else old commits are not here
        found = git("cat-file", "--batch-check", given="\n".join(f"{commit}^{{commit}}" for commit in sorted(commits)))
        assert found is not None
        assert "missing" not in found, found
    entries = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert [entry.splitlines()[0] for entry in entries if not re.search(r"Commits?\s+`[0-9a-f]{7}`", entry)] == []


@pytest.mark.parametrize("name", LIVING)
def test_a_rate_is_per(name: str) -> None:
    assert not _RATE.findall(re.sub(r'"[^"]*"', "", prose(text_of(name))))  # what is quoted may be wrong
