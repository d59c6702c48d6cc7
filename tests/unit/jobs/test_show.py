"""What people see of a run."""

import time

import pytest

from jobs import show
from jobs.show import describe, duration, print_outcome, shown
from pipeline.driver.progress import Progress


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def _half_done() -> Progress:
    """100 of 200 images after 10 s: 20 were there, 80 were made in this attempt, from 800 of 2,000 bytes."""
    progress = Progress(phase="labelling", images=80, failures=3, skipped=20, planned_bytes=2000, read_bytes=800)
    progress.labelling_since = 100.0
    progress.last_part = 110.0
    return progress


def test_speed_and_time_left() -> None:
    progress = _half_done()
    assert progress.images_per_s == 8.0
    assert progress.expected_images == 200
    assert progress.seconds_remaining == 12.5
    assert describe(progress) == "labelling: 100 of about 200 images, 8.0 images/s, 3 failures, 12 s left"


def test_before_the_first_part_only_the_phase_is_known() -> None:
    assert describe(Progress(phase="listing")) == "listing"
    assert Progress(planned_bytes=10).seconds_remaining is None


def test_single_images_are_counted_exactly() -> None:
    assert Progress(planned_rows=7).expected_images == 7


def test_without_a_terminal_a_line_comes_at_its_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "PLAIN_EVERY_S", 0.05)
    with shown(_half_done()):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 7
    assert all("100 of about 200 images" in line and "\x1b" not in line for line in lines)


def test_the_table_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"images": 1000, "masks": 998, "failures": 2, "broken_shards": 0, "inferred": 600, "skipped": 400}
    run = {
        "counts": counts, "errors": {"CorruptImage": 2}, "state": "complete", "output": "/out",
        "attempts": [{"images_per_s": 12.34}],
    }  # fmt: skip
    print_outcome(run, [{"name": "cat", "pixels": 5, "fraction": 0.25}, {"name": "dog", "pixels": 0, "fraction": 0.0}])
    text = capsys.readouterr().out
    assert "1,000  (600 labelled now, 400 there before)" in text
    assert "2  (2 CorruptImage)" in text
    assert "1 found: cat 25.0 %" in text
    assert "12.3" in text
