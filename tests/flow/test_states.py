"""What `run.json` says while attempts are started, killed, refused and doubled: whole stays whole."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import SegmentConfig
from pipeline.driver.attempt import Attempt
from pipeline.driver.progress import Progress
from pipeline.errors import RunMismatch
from pipeline.stopped import Stopped
from pipeline.verify.verify import verify
from tests.support.runs import SHORT_SIDE, segment, write_tars

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tars(tmp_path / "in", 2, 8)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Path, Path]:
    """Input and output of a whole run, which nobody changes."""
    folder = tmp_path_factory.mktemp("kept")
    source = write_tars(folder / "in", 2, 8)
    segment(source, folder / "out")
    return source, folder / "out"


@pytest.fixture
def whole(kept: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of that output."""
    return kept[0], Path(shutil.copytree(kept[1], tmp_path / "whole"))


def _attempt(source: Path, out: Path, **flags: Any) -> Attempt:
    values: dict[str, Any] = {"weights": "bundled", "short_side": SHORT_SIDE, "part_images": 4, "workers": 1} | flags
    return Attempt(SegmentConfig(input=(str(source),), output=str(out), **values), Progress())


def _said(out: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((out / "run.json").read_text())
    return said


def _after_the_first_report(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Of the next round only; what `act` starts itself is left alone."""
    from pipeline.driver import ray_data as flow

    real = flow.label

    def label(*arguments: Any) -> Iterator[Any]:
        monkeypatch.setattr(flow, "label", real)
        reports = real(*arguments)
        yield next(reports)
        act()
        yield from reports

    monkeypatch.setattr(flow, "label", label)


def _stop() -> None:
    raise Stopped(15)


def test_a_run_is_said_to_be_running_and_then_whole(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []
    _after_the_first_report(monkeypatch, lambda: states.append(_said(out)["state"]))
    segment(source, out)
    assert [*states, _said(out)["state"]] == ["running", "complete"]


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_rerun_of_a_whole_run_that_is_stopped_or_killed_leaves_it_so(
    whole: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    source, out = whole
    (out / "checkpoint.parquet").unlink()  # else it finds that all is written down, and sums nothing up
    before = (out / "run.json").read_bytes()
    attempt = _attempt(source, out)
    monkeypatch.setattr(Attempt, "_sum_up", lambda *_: _stop())
    with pytest.raises(Stopped):
        attempt.run()
    if interrupted:
        known = attempt.interrupt()
        assert known is not None
        assert known["counts"]["skipped"] == 16
    assert (out / "run.json").read_bytes() == before


def test_a_refused_attempt_leaves_it_so(whole: tuple[Path, Path]) -> None:
    source, out = whole
    before = (out / "run.json").read_bytes()
    attempt = _attempt(source, out, short_side=80)
    with pytest.raises(RunMismatch):
        attempt.run()
    assert attempt.interrupt() is None
    assert (out / "run.json").read_bytes() == before


def test_the_slower_of_two_that_is_stopped_leaves_what_the_other_found(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_ends() -> None:
        assert segment(source, out).run["state"] == "complete"
        before.append((out / "run.json").read_bytes())
        slow._refresh("running")  # every ten seconds
        assert (out / "run.json").read_bytes() == before[0]
        _stop()

    before: list[bytes] = []
    slow = _attempt(source, out)
    _after_the_first_report(monkeypatch, other_ends)
    with pytest.raises(Stopped):
        slow.run()
    slow.interrupt()
    assert (out / "run.json").read_bytes() == before[0]
    assert verify(str(out)).exit_code == 0


def test_the_slower_of_two_that_ends_tells_of_both(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[str] = []
    _after_the_first_report(monkeypatch, lambda: ids.append(segment(source, out).run["attempts"][-1]["id"]))
    outcome = segment(source, out)
    assert outcome.error is None
    assert {attempt["id"] for attempt in _said(out)["attempts"]} == {*ids, outcome.run["attempts"][-1]["id"]}
    assert _said(out) == outcome.run
    assert verify(str(out)).exit_code == 0


def test_another_that_ends_during_the_summing_up_is_summed_up_too(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has listed more, and ended, between our last look and our last word."""
    real = Attempt._values

    def values(self: Attempt, state: str) -> dict[str, Any]:
        found = real(self, state)
        if state == "complete":
            monkeypatch.setattr(Attempt, "_values", real)
            write_tars(source, 1, 4, first=7)
            assert segment(source, out).run["counts"]["images"] == 20
        return found

    monkeypatch.setattr(Attempt, "_values", values)
    outcome = segment(source, out)
    assert outcome.error is None
    assert outcome.run["counts"]["images"] == _said(out)["counts"]["images"] == 20
    assert verify(str(out)).exit_code == 0


@pytest.mark.parametrize("more", ["inputs", "redo"])
def test_more_to_do_is_running_again_and_a_stop_incomplete(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, more: str
) -> None:
    (source / "damaged.jpg").write_bytes(b"<html>")
    segment(source, out, failure_budget=1)
    assert _said(out)["state"] == "complete"
    if more == "inputs":
        write_tars(source, 1, 8, first=7)
    states: list[str] = []

    def stop() -> None:
        states.append(_said(out)["state"])
        _stop()

    attempt = _attempt(source, out, failure_budget=1, redo="CorruptImage" if more == "redo" else None)
    _after_the_first_report(monkeypatch, stop)
    with pytest.raises(Stopped):
        attempt.run()
    attempt.interrupt()
    assert [*states, _said(out)["state"]] == ["running", "incomplete"]
    assert segment(source, out, failure_budget=1).run["state"] == "complete"


def test_it_says_running_before_a_part_is_removed(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "damaged.jpg").write_bytes(b"<html>")
    segment(source, out, failure_budget=1)
    attempt = _attempt(source, out, failure_budget=1, redo="CorruptImage")
    monkeypatch.setattr(attempt.store, "delete", lambda _: _stop())  # killed there
    with pytest.raises(Stopped):
        attempt.run()
    assert _said(out)["state"] == "running"
