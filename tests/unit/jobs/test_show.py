"""What people see of a run."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs import show
from jobs.show import describe, duration, ends, kept, print_next, print_outcome, shown
from pipeline.driver.progress import Progress
from tests.support.terminal import ROOT, Terminal


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


NOW = datetime(2026, 11, 28, 23, 50, tzinfo=UTC)  # a Saturday


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (50, "23:50"), (350 * 60, "05:40"), (11 * 3600, "10:50"), (13 * 3600, "Sun 12:50"), (5 * 86400, "Thu 23:50"),
        (8 * 86400, "6 Dec 23:50"),
    ],
)  # fmt: skip
def test_the_end_is_a_time_of_the_clock(seconds: float, text: str) -> None:
    assert ends(seconds, NOW) == f"ends about {text}"


def test_an_end_that_no_calendar_has() -> None:
    assert ends(1e18, NOW) == "ends in a year or later"


def _half_done() -> Progress:
    """100 of 200 images after 10 s: 20 were there, 80 were made in this attempt, from 800 of 2,000 bytes."""
    progress = Progress(
        phase="labelling", images=80, failures=3, skipped=20, planned_bytes=2000, read_bytes=800, parts=4, skipped_parts=1,
        errors=Counter(ImageTimeout=1, CorruptImage=2),
    )  # fmt: skip
    progress.last_part = time.monotonic()
    progress.labelling_since = progress.last_part - 10
    return progress


def test_speed_and_time_left() -> None:
    progress = _half_done()
    assert progress.images_per_s == pytest.approx(8)
    assert progress.expected_images == 200
    assert progress.seconds_remaining == pytest.approx(12.5)
    text = describe(progress)
    known = "labelling: 100 of about 200 images, 8.0 images/s, 5 parts, 3 failures (2 CorruptImage, 1 ImageTimeout), 12 s left"
    assert text.rsplit(", ", 1)[0] == known
    assert text.rsplit(", ", 1)[1] in [ends(seconds, datetime.now(UTC).astimezone()) for seconds in (11, 12.5)]


def test_no_end_is_named_once_it_is_over_time() -> None:
    progress = _half_done()
    progress.last_part -= 60  # no part came for a minute, and 12 s were left
    progress.labelling_since = progress.last_part - 10
    assert "left" not in describe(progress)
    assert "ends" not in describe(progress)
    progress.phase, progress.last_part = "summing up", time.monotonic()
    assert "ends" not in describe(progress)


def test_what_is_kept() -> None:
    assert kept(_half_done()) == "100 images in 5 parts are kept"
    assert kept(Progress(images=1, parts=1)) == "1 image in 1 part is kept"
    assert kept(Progress(skipped=1_000_000, skipped_parts=4000)) == "1,000,000 images in 4,000 parts are kept"


def test_before_the_first_part_only_the_phase_is_known() -> None:
    assert describe(Progress(phase="listing")) == "listing"
    assert Progress(planned_bytes=10).seconds_remaining is None


def test_single_images_are_counted_exactly() -> None:
    progress = Progress(planned_rows=7, images=2, phase="labelling", labelling_since=0.0)
    assert progress.expected_images == 7
    assert "labelling: 2 of 7 images" in describe(progress)


def test_without_a_terminal_a_line_comes_at_its_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "PLAIN_EVERY_S", 0.05)
    with shown(_half_done()):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 7
    assert all("100 of about 200 images" in line and "\x1b" not in line for line in lines)


def test_the_table_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    print_outcome(_run(), [{"name": "c[a]t\x1b", "pixels": 5, "fraction": 0.25}, {"name": "dog", "pixels": 0, "fraction": 0.0}])
    text = capsys.readouterr().out
    assert "1,000  (600 labelled now, 400 there before)" in text
    assert "2  (2 CorruptImage)" in text
    assert "1 found: c[a]t\ufffd 25.0 %" in text
    assert "12.3" in text
    assert text.splitlines()[-1] == "  output      /o u[t]/" + "long/" * 30


def _run(**counts: int) -> dict[str, Any]:
    known = {"images": 1000, "masks": 998, "failures": 2, "broken_shards": 0, "inferred": 600, "skipped": 400}
    return {
        "counts": known | counts, "errors": {"CorruptImage": 2}, "state": "complete", "output": "/o u[t]/" + "long/" * 30,
        "attempts": [{"images_per_s": 12.34}],
    }  # fmt: skip


def test_the_next_commands_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    print_next(_run(), "maskfleet segment")
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line) for line in lines] == [["next", "maskfleet", job, _run()["output"]] for job in ("look", "verify")]


def test_the_next_commands_are_those_that_have_something_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    print_next(_run() | {"output": "s3://b/o", "state": "incomplete"}, "python -m jobs.segment")  # with --limit
    assert capsys.readouterr().out == "  next        python -m jobs.look s3://b/o\n"
    print_next(_run(masks=0) | {"output": "/out"}, "maskfleet segment")
    assert capsys.readouterr().out == "  next        maskfleet verify /out\n"


# --- on a real terminal -------------------------------------------------------------------------------------------

RUN = """
import logging, os, signal, sys, time
from pathlib import Path
from jobs.show import LogLines, shown
from pipeline.driver.progress import Progress

def wait_for(step):
    while not Path(sys.argv[1], step).exists():
        time.sleep(0.02)

signal.signal(signal.SIGINT, lambda *_: sys.exit(print("stopped")))
logging.basicConfig(format="maskfleet: %(message)s", handlers=[LogLines()])
progress = Progress(phase="listing")
with shown(progress, live="plain" not in sys.argv):
    before = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as while Ray starts
    progress.phase = "starting Ray"
    wait_for("started")
    os.dup2(before, 2)
    progress.phase, progress.planned_bytes = "labelling", 60_000_000_000
    progress.skipped, progress.skipped_parts = 20_000_000, 80_000
    progress.images, progress.parts, progress.read_bytes = 12_345_678, 50_000, 12_345_678_000
    progress.errors.update(CorruptImage=7, UnsupportedFormat=5, ImageTimeout=3, KillsItsProcess=1)
    progress.failures, progress.last_part = 16, time.monotonic()
    progress.labelling_since = progress.last_part - 100_000
    wait_for("labelled")
    logging.warning("a round failed")
    wait_for("ended")
print("the end")
"""


def _run_on(folder: Path, *more: object, columns: int = 80, steps: tuple[str, ...] = (), **env: str) -> Terminal:
    """RUN, which waits for a file of each name before it takes the step."""
    folder.mkdir(exist_ok=True)
    for step in steps:
        (folder / step).touch()
    return Terminal("-c", RUN, folder, *more, columns=columns, lines=12, env=env)


ALL = ("started", "labelled", "ended")


COLOUR = re.compile(rb"\x1b\[[\d;]*3\d[\d;]*m")


@pytest.mark.parametrize(("columns", "no_color"), [(80, ""), (120, "1")])
def test_the_bar_fits_its_terminal_and_leaves_nothing_behind(columns: int, no_color: str, tmp_path: Path) -> None:
    with _run_on(tmp_path, columns=columns, NO_COLOR=no_color) as terminal:
        assert re.fullmatch(r"\S starting Ray", terminal.wait_for(lambda text: "starting" in text))
        (tmp_path / "started").touch()
        lines = terminal.wait_for(lambda text: "failures" in text).splitlines()
        assert len(lines) == 2
        assert re.fullmatch(r". [━╸╺ ]{4,} 32,345,678 of about 60,000,000 images, ends about \w{3} \d\d:\d\d", lines[0])
        by_error = "7 CorruptImage, 5 UnsupportedFormat, 3 ImageTimeout, 1 KillsItsProcess"
        whole = f"  123.5 images/s, 130,000 parts, 16 failures ({by_error})"
        assert lines[1] == (whole if len(whole) <= columns - 4 else whole[: columns - 5] + "…")
        (tmp_path / "labelled").touch()
        warned = terminal.wait_for(lambda text: "a round" in text and "failures" in text).splitlines()
        assert (warned[0], warned[2]) == ("maskfleet: a round failed", lines[1])
        (tmp_path / "ended").touch()
        assert terminal.end() == 0
        assert terminal.text.splitlines() == ["maskfleet: a round failed", "the end"]
        assert not terminal.screen.cursor.hidden
        assert (COLOUR.search(terminal.raw) is None) == bool(no_color)


@pytest.mark.parametrize(("steps", "seen"), [((), "starting"), (("started",), "failures")])
def test_ctrl_c_erases_the_bar(steps: tuple[str, ...], seen: str, tmp_path: Path) -> None:
    with _run_on(tmp_path, steps=steps) as terminal:
        terminal.wait_for(lambda text: seen in text)
        terminal.press("\x03")
        assert terminal.end() == 0
        assert terminal.text.splitlines() == ["stopped"]
        assert b"^C" in terminal.raw
        assert not terminal.screen.cursor.hidden


def test_what_cannot_be_drawn_on_anew_gets_lines(tmp_path: Path) -> None:
    forced = os.environ | {"FORCE_COLOR": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    file = subprocess.Popen(command, env=forced, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with _run_on(tmp_path, steps=ALL, TERM="dumb") as dumb, _run_on(tmp_path, "plain", steps=ALL) as plain:
        for terminal in (dumb, plain):
            assert terminal.end() == 0
            assert bytes(terminal.raw) == b"maskfleet: a round failed\r\nthe end\r\n"
    assert file.communicate()[0] == b"maskfleet: a round failed\nthe end\n"
