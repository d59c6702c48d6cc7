"""`look` on runs of every kind: whole, not whole, empty, absent; and the job's lines and exit codes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from jobs.look import main
from pipeline.errors import NotReachable
from pipeline.look.choose import Where
from pipeline.look.look import look
from tests.support.corpus import photos, tar_bytes
from tests.support.labelled import change_run, label, parts_of


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`in/a.tar` of seven photographs and one failure, labelled into `out`, in four parts."""
    folder = tmp_path_factory.mktemp("look")
    (folder / "in").mkdir()
    (folder / "in" / "a.tar").write_bytes(tar_bytes([*photos(7), ("bad.jpg", b"no image")]))
    label([folder / "in"], folder / "out", confidence_map=True)
    change_run(folder / "out", lambda run: run.update(input=[str(folder / "in")]))
    return folder


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled / "out", tmp_path / "out"))


def _job(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_whole_run(out: Path) -> None:
    found = look(str(out), Where(), images=12)
    assert found.summary == "7 of 8 images, at random, seed 0"
    assert [tile.image_id for tile in found.tiles] == [f"{number:04d}" for number in range(1, 8)]  # in the order of the input
    assert all(tile.photograph is not None and tile.confidence is not None and not tile.note for tile in found.tiles)
    assert found.sheet().height > 7 * 192


def test_it_writes_nothing_into_the_run(out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    look(str(out), Where.parse("least-confident")).sheet()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_incomplete_run_is_shown_as_far_as_it_is(out: Path) -> None:
    for part in parts_of(out, "a.tar")[1:]:
        part.file.unlink()
    change_run(out, lambda run: run.update(state="incomplete"))
    found = look(str(out), Where())
    assert found.summary == "2 of 2 images, at random, seed 0; the run is incomplete"


def test_parts_that_the_plan_does_not_know_are_not_shown(out: Path) -> None:
    first = parts_of(out, "a.tar")[0].file
    shutil.copy(first, first.with_name("f" * 24 + first.name[24:]))
    for where in ("random", "least-confident"):
        assert len(look(str(out), Where.parse(where)).tiles) == 7


def test_confidence_that_was_not_stored_has_no_column(labelled: Path, tmp_path: Path) -> None:
    label([labelled / "in"], tmp_path / "plain")
    with_it, without = (look(str(folder), Where()).sheet().width for folder in (labelled / "out", tmp_path / "plain"))
    assert with_it - without > 288


def test_a_threshold_leaves_ignored_pixels(labelled: Path, tmp_path: Path) -> None:
    label([labelled / "in"], tmp_path / "sure", min_confidence=0.6)
    tiles = look(str(tmp_path / "sure"), Where()).tiles
    assert max(tile.ignored for tile in tiles) > 0.1


@pytest.mark.parametrize("where", ["random", "least-confident", "class=cat"])
def test_a_run_of_failures_only(tmp_path: Path, where: str) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes([(f"{number}.jpg", b"no image") for number in range(3)]))
    label([tmp_path / "a.tar"], tmp_path / "out")
    with pytest.raises(NotReachable, match=r"no image was labelled, 3 failed \(3 CorruptImage\): failures/ says why"):
        look(str(tmp_path / "out"), Where.parse(where))


@pytest.mark.parametrize("where", ["random", "least-confident", "id=0001"])
def test_a_run_without_rows(out: Path, where: str) -> None:
    shutil.rmtree(out / "masks")
    with pytest.raises(NotReachable, match="nothing is labelled yet: run the same segment command again"):
        look(str(out), Where.parse(where))


def _nothing(out: Path) -> None:
    shutil.rmtree(out)


def _a_newer_format(out: Path) -> None:
    """A part that ends where a footer of a later version would not."""
    for file in (out / "masks").iterdir():
        file.write_bytes(b"")


@pytest.mark.parametrize(
    ("happens", "flags", "code", "line"),
    [
        (_nothing, [], 4, "no run at"),
        (_a_newer_format, ["--where", "least-confident"], 7, "cannot be read"),
        (None, ["--where", "class=unicorn"], 2, "--where class=unicorn: not a class of this run"),
        (None, ["--where", "id=9999"], 4, "no image is named 9999"),
        (None, ["--where", "all"], 2, "--where all: not one of random"),
        (None, ["--images", "0"], 2, "Invalid value for '--images'"),
        (None, ["--images", "201"], 2, "Invalid value for '--images'"),
        (None, ["--to", "sheet.gif"], 2, "--to sheet.gif: not a file on this machine"),
        (None, ["--to", "absent/folder/sheet.png"], 2, "--to absent/folder/sheet.png: no file can be written there"),
    ],
)
def test_what_goes_wrong_is_one_line(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happens: Any, flags: list[str], code: int, line: str
) -> None:
    if happens is not None:
        happens(out)
    monkeypatch.chdir(tmp_path)
    done = _job(out, *flags, "--json", "end.json")
    assert done.exit_code == code, done.output
    assert line in done.output
    assert "Traceback" not in done.output
    told = json.loads((tmp_path / "end.json").read_text())
    assert told["exit_code"] == code
    assert "picture" not in told
    assert not list(tmp_path.glob("*.jpg"))


def test_a_class_that_no_image_has(out: Path) -> None:
    present = {found.name for tile in look(str(out), Where()).tiles for found in tile.classes}
    absent = next(name for name in ("bus", "tvmonitor", "bottle", "boat") if name not in present)
    done = _job(out, "--where", f"class={absent}")
    assert done.exit_code == 4
    assert f"no image has the class {absent}" in done.output


def test_the_job_draws_and_tells(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = _job(f"{out}/", "--where", "least-confident", "--images", 3, "--json", "look.json")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "out-look.jpg") as picture:  # named after the run, in this folder
        assert picture.format == "JPEG"
        assert 3 * 192 < picture.height < 4 * 208 + 92
    told = json.loads((tmp_path / "look.json").read_text())
    assert (told["images"], told["where"], told["picture"], told["exit_code"]) == (8, "least-confident", "out-look.jpg", 0)
    confidences = [shown["mean_confidence"] for shown in told["shown"]]
    assert confidences == sorted(confidences)
    assert len(confidences) == 3
    lines = done.output.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(f"  1  {confidences[0]:.2f}  {told['shown'][0]['image_id']}: ")
    assert lines[-2:] == ["look: 3 of 8 images, least confident first", "open this  out-look.jpg"]


def test_a_photograph_that_is_gone_is_told_and_costs_nothing_else(labelled: Path, tmp_path: Path) -> None:
    shutil.copytree(labelled / "in", tmp_path / "in")
    label([tmp_path / "in"], tmp_path / "out", confidence_map=True)
    change_run(tmp_path / "out", lambda run: run.update(input=[str(tmp_path / "in")]))
    (tmp_path / "in" / "a.tar").unlink()
    done = _job(tmp_path / "out", "--images", 2, "--to", tmp_path / "x.png")
    assert done.exit_code == 0
    assert done.output.count("The photograph is gone: ") == 2
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_names_do_nothing_to_a_terminal(out: Path, tmp_path: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    part.write([row | {"image_id": "a\x1b[2J\nb"} for row in part.rows])
    done = _job(out, "--to", tmp_path / "x.png")
    assert done.exit_code == 0
    assert "a\ufffd[2J b" in done.output
    assert "\x1b" not in done.output


def test_a_picture_replaces_the_one_before_as_a_whole(out: Path, tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    picture.write_bytes(b"old")
    assert _job(out, "--images", 1, "--to", picture).exit_code == 0
    with Image.open(picture) as found:
        found.load()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["x.png"]  # and no half of it beside
