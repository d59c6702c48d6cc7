"""Where a worker does not start: another engine or version of the labels than the run's, a machine that it cannot work on."""

from pathlib import Path

import pytest

from pipeline.errors import Incomplete
from pipeline.labels.labeller import LabelOptions
from pipeline.labels.prepare import prepare
from pipeline.model.prepare import NetworkRequest
from pipeline.model.zoo import DEFAULT_MODEL
from pipeline.plan.fingerprint import LABELS_VERSION, engine_release
from pipeline.shards.base import ReadOptions
from pipeline.worker.span_worker import SegmentSpan, WorkerConfig

MINE = engine_release("openvino")


def _start(out: Path, engine: str | None, labels_version: int) -> SegmentSpan:
    network = prepare(NetworkRequest(model=DEFAULT_MODEL, weights="bundled", engine="openvino", short_side=32))
    config = WorkerConfig(
        output=str(out), fingerprint="0" * 64, part_images=3, read=ReadOptions(), engine=engine, labels_version=labels_version,
        labels=LabelOptions(classes=network.classes, preset=network.preset),
    )  # fmt: skip
    return SegmentSpan(config, network)


@pytest.mark.parametrize(("engine", "labels_version"), [("openvino 2026.1", LABELS_VERSION), (MINE, 99), ("openvino 2026.1", 99)])
def test_a_worker_of_other_versions_refuses(engine: str, labels_version: int, tmp_path: Path) -> None:
    with pytest.raises(Incomplete) as refused:
        _start(tmp_path, engine, labels_version)
    assert str(refused.value) == (
        f"it has {MINE} and labels version {LABELS_VERSION}, the run is of {engine} and labels version {labels_version}: "
        "install the same versions on every node"
    )


@pytest.mark.parametrize("engine", [MINE, None])
def test_a_worker_of_the_same_versions_starts(engine: str | None, tmp_path: Path) -> None:
    _start(tmp_path, engine, LABELS_VERSION)


def test_a_worker_that_cannot_note_what_it_has_in_hand_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "begun").write_text("a file")
    monkeypatch.setattr("pipeline.worker.span_worker.scratch_folder", lambda: tmp_path)
    with pytest.raises(NotADirectoryError):
        _start(tmp_path / "out", None, LABELS_VERSION)
