"""What an attempt makes of reports, without Ray."""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.config import SegmentConfig
from pipeline.driver.attempt import REFRESH_S, Attempt
from pipeline.driver.progress import Progress
from pipeline.errors import Bug, NotReachable, StorageError
from pipeline.listing.listing import Listing, list_inputs
from pipeline.output.parts import list_parts
from pipeline.output.span import PartReport
from pipeline.plan.plan import extend_plan
from tests.support.images import jpeg


@pytest.mark.parametrize(
    ("report", "counts"),
    [
        (PartReport(in_hand=128), True),
        (PartReport(part="a", rows=4), True),  # another attempt made it: this one goes on behind it
        (PartReport(error="no answer", error_class="StorageError"), False),
    ],
)
def test_whoever_reports_images_keeps_the_clock_going(tmp_path: Path, report: PartReport, counts: bool) -> None:
    """A part may take longer than `--idle-minutes`; a worker that only fails does not get on."""
    long_ago = time.monotonic() - 3600
    progress = Progress(last_sign=long_ago, last_part=long_ago, phase="starting workers")
    attempt = Attempt(SegmentConfig(input=("x",), output=str(tmp_path / "out")), progress)
    attempt._refreshed = time.monotonic()
    attempt._take(report)
    assert (progress.last_sign > long_ago + 1) is counts
    assert progress.last_part == long_ago
    assert progress.phase == ("labelling the first parts" if counts else "starting workers")


def test_a_run_json_that_cannot_be_written_is_tried_ever_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try takes two minutes of retries, and the reports wait meanwhile."""
    tries = list[float]()

    def write(_state: str) -> None:
        tries.append(clock[0])
        clock[0] += 120
        raise StorageError("503")

    clock = [1000.0]
    attempt = Attempt(SegmentConfig(input=("x",), output=str(tmp_path / "out")), Progress())
    attempt._refreshed = clock[0]
    monkeypatch.setattr(attempt, "_write", write)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(600):
        clock[0] += 1
        attempt._take(PartReport(in_hand=16))
    pauses = [after - before - 120 for before, after in pairwise(tries)]
    assert pauses == [21, 41, 81, 161]
    monkeypatch.setattr(attempt, "_write", lambda _state: tries.append(clock[0]))
    attempt._refresh("running")
    clock[0] += REFRESH_S + 1
    attempt._take(PartReport(in_hand=16))
    assert tries[-1] - tries[-2] == REFRESH_S + 1


def test_a_bug_stays_the_reason_if_the_sums_cannot_be_closed_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 1 before 5: whoever runs a bug again meets it again."""
    attempt = Attempt(SegmentConfig(input=("x",), output=str(tmp_path / "out")), Progress())
    attempt._take(PartReport(error="IndexError", error_class="Bug"))

    def close(_plan: object, _reason: object) -> None:
        raise StorageError("503")

    monkeypatch.setattr(attempt, "_sum_up", close)
    with pytest.raises(Bug):
        attempt._end(None, "IndexError")  # type: ignore[arg-type]


def test_a_run_that_finds_no_ray_in_any_pass_is_not_reachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 4, as of a new output: nothing could start. With 5 a scheduler would ask a head that is gone for ever."""
    (tmp_path / "in.jpg").write_bytes(jpeg())
    attempt = Attempt(SegmentConfig(input=(str(tmp_path / "in.jpg"),), output=str(tmp_path / "out")), Progress())
    plan = extend_plan(attempt.store, attempt.config.output, None, list_inputs(attempt.config.input, Listing()), {})
    monkeypatch.setattr(attempt, "_write", lambda _state: None)
    monkeypatch.setattr(attempt, "_round", lambda *_, **__: "the Ray of RAY_ADDRESS=10.0.0.9:6379: ConnectionRefusedError")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(NotReachable, match=r"10\.0\.0\.9"):
        attempt._rounds(plan, list_parts(attempt.store, attempt.config.output))
