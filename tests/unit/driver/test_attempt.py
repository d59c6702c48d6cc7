"""What an attempt makes of reports, without Ray."""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.config import SegmentConfig
from pipeline.driver.attempt import REFRESH_S, Attempt
from pipeline.driver.labelling import Labelling
from pipeline.driver.planning import Begun
from pipeline.driver.progress import Progress
from pipeline.errors import Bug, StorageError
from pipeline.labels.prepare import prepare
from pipeline.output.reports import PartReport
from pipeline.output.span import Secrets
from pipeline.plan.options import network_request
from pipeline.plan.plan import Plan


def _attempt(out: Path) -> Attempt:
    return Attempt(SegmentConfig(input=("x",), output=str(out), weights="bundled"), Progress())


def test_a_run_json_that_cannot_be_written_is_tried_ever_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try takes two minutes of retries, and the reports wait meanwhile."""
    tries = list[float]()

    def write(_state: str) -> None:
        tries.append(clock[0])
        clock[0] += 120
        raise StorageError("503")

    clock = [1000.0]
    attempt = _attempt(tmp_path / "out")
    attempt._refreshed = clock[0]
    monkeypatch.setattr(attempt, "_write", write)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(600):
        clock[0] += 1
        attempt.events.report(PartReport(in_hand=16))
    pauses = [after - before - 120 for before, after in pairwise(tries)]
    assert pauses == [21, 41, 81, 161]
    monkeypatch.setattr(attempt, "_write", lambda _state: tries.append(clock[0]))
    attempt._refresh("running")
    clock[0] += REFRESH_S + 1
    attempt.events.report(PartReport(in_hand=16))
    assert tries[-1] - tries[-2] == REFRESH_S + 1


def test_a_bug_stays_the_reason_if_the_sums_cannot_be_closed_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 1 before 5: whoever runs a bug again meets it again."""
    attempt = _attempt(tmp_path / "out")
    plan = Plan({"fingerprint": "f"})
    begun = Begun.of(attempt.config, attempt.store, plan, prepare(network_request(attempt.config)))
    secrets = Secrets({}, attempt.config.output)
    attempt._labelling = Labelling(attempt.config, attempt.store, begun, secrets, attempt.events, attempt.progress, "id")
    attempt._refreshed = time.monotonic()
    assert attempt._labelling.take(PartReport(error="IndexError", error_class="Bug")) == "IndexError"

    def close(_plan: object, _reason: object) -> None:
        raise StorageError("503")

    monkeypatch.setattr(attempt, "_sum_up", close)
    with pytest.raises(Bug):
        attempt._end(plan, "IndexError")
