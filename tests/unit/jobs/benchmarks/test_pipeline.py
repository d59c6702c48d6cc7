"""`bench pipeline`: its loops label as the job does, its task is fair, and the command leaves what it says."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.benchmarks import contenders
from jobs.benchmarks.bare import png_digest, run_bare
from jobs.benchmarks.contenders import PARTS_A_TAR, Measured, Task, check_labels, measure_loop
from jobs.benchmarks.photographs import write_tars
from jobs.benchmarks.pipeline import BARE, JOB, PLAIN, make_task, rates_of
from jobs.benchmarks.places import Place, local_place
from jobs.benchmarks.plain_labels import PlainLabeller, plain_labels
from jobs.benchmarks.steady import Stamp, Window
from jobs.benchmarks.whole_job import read_trace
from pipeline.errors import Bug, UsageError
from pipeline.labels.labeller import Resized
from tests.conftest import Finished


@pytest.fixture(scope="module")
def task() -> Task:
    return make_task(photos=(), images=12, workers=2, short_side=64, precision="fp32")


def _write(place: Place, task: Task) -> None:
    write_tars(Path(place.source), task.photographs, task.images, images_a_tar=PARTS_A_TAR * task.part_images)


def test_every_worker_has_as_many_whole_tars() -> None:
    for images, workers in ((12, 2), (13, 2), (384, 2), (500, 3)):
        task = make_task(photos=(), images=images, workers=workers, short_side=64, precision="fp32")
        assert task.images >= images
        assert task.images == task.tars * PARTS_A_TAR * task.part_images
        assert task.tars % workers == 0
    assert make_task(photos=(), images=None, workers=3, short_side=64, precision="fp32").images == 3 * 192


def test_the_bare_loop_labels_each_image_once(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = check_labels(task)
    with local_place() as place:
        _write(place, task)
        shards = place.shards()
        done = run_bare("bare", task.network, task.options, shards, 2, task.part_images)
        assert [each.images for each in done] == [6, 6]
        assert sum(each.digest for each in done) == expected.digests["bare"]
        assert all(sum(stamp.images for stamp in each.stamps) == 6 for each in done)
        assert {"read", "decode", "resize", "network", "labels", "encode"} <= done[0].stamps[-1].milliseconds.keys()
        assert done[0].stamps[-1].cpu_s >= sum(done[0].stamps[-1].milliseconds.values()) / 1000
        monkeypatch.setattr(contenders, "run_bare", lambda *_: done[:1])  # half of it lost
        with pytest.raises(Bug, match="its masks differ"):
            measure_loop("bare", task, place, expected)


def test_loops_that_disagree_are_an_error(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PlainLabeller.label_map

    def shifted(self: PlainLabeller, resized: Resized) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
        return np.roll(real(self, resized), 1, axis=1)

    assert check_labels(task).agreement > contenders.MIN_AGREEMENT
    monkeypatch.setattr(PlainLabeller, "label_map", shifted)
    with pytest.raises(Bug, match="pixels differently"):
        check_labels(task)


def test_a_photograph_that_is_none_is_one_line(task: Task) -> None:
    with pytest.raises(UsageError, match="--photos: photograph 0 cannot be labelled"):
        check_labels(replace(task, photographs=(b"no photograph",)))


def test_the_plain_pass_is_bilinear_argmax_softmax() -> None:
    from torch import from_numpy
    from torch.nn import functional as F

    logits = np.random.default_rng(7).normal(0, 3, (21, 9, 13)).astype(np.float32)
    label_map, confidence = plain_labels(logits, 61, 83)
    large = F.interpolate(from_numpy(logits)[None], size=(61, 83), mode="bilinear", align_corners=False)[0].softmax(0)
    most, best = large.max(0)
    assert (best.numpy() == label_map).mean() > 0.999
    assert np.abs(np.rint(255 * most.numpy()) - confidence).max() <= 1


def test_a_digest_tells_shard_index_and_bytes_apart() -> None:
    assert png_digest("/a/0.tar", 1, b"x") == png_digest("s3://b/0.tar", 1, b"x")
    assert len({png_digest("/a/0.tar", 1, b"x"), png_digest("/a/1.tar", 1, b"x"), png_digest("/a/0.tar", 2, b"x"),
                png_digest("/a/0.tar", 1, b"y")}) == 4  # fmt: skip


def test_a_trace_becomes_stamps_by_worker() -> None:
    line = {"shard": "a", "first": 0, "rows": 4, "inferred": 3, "unix_s": 1.5, "cpu_s": 2.0, "milliseconds": {"read": 1}}
    stamps = read_trace("".join(json.dumps(line | {"pid": pid}) + "\n" for pid in (7, 8, 7)))
    assert stamps[7] == [Stamp(unix_s=1.5, images=3, cpu_s=2.0, milliseconds={"read": 1})] * 2
    assert len(stamps[8]) == 1


def test_no_photographs_are_one_line(job: Callable[..., Finished], tmp_path: Path) -> None:
    done = job("bench", "pipeline", "--photos", tmp_path)
    assert done.code == 2
    assert done.err.splitlines() == [f"maskfleet: --photos: no .jpg in {tmp_path}"]


def _run(seconds: float, images_per_s: float | None) -> Measured:
    window = None if images_per_s is None else Window(
        start=0, stop=1, images=9, images_per_s=images_per_s, wall_ms=1, cpu_ms=1, milliseconds={}
    )  # fmt: skip
    return Measured(images=100, seconds=seconds, window=window)


def test_rates_are_all_steady_or_all_with_start_up() -> None:
    assert rates_of({"a": [_run(10, 20), _run(5, 30)], "b": [_run(20, 8), _run(25, 9)]}) == [{"a": 20, "b": 8}, {"a": 30, "b": 9}]
    assert rates_of({"a": [_run(10, 20)], "b": [_run(20, None)]}) == [{"a": 10, "b": 5}]


@pytest.mark.slow
def test_the_command_measures_both_places(job: Callable[..., Finished], tmp_path: Path) -> None:
    done = job(
        "bench", "pipeline", "--images", 120, "--pairs", 1, "--short-side", 64, "--source", "both",
        "--usd-per-core-hour", 0.02, "--out", tmp_path, timeout_s=900,
    )  # fmt: skip
    assert done.code == 0, done.err
    names = {f"{kind}, {place}" for kind in (JOB, BARE) for place in ("local", "S3")} | {f"{PLAIN}, local"}
    found = json.loads((tmp_path / "pipeline.json").read_text())
    assert found["runs"].keys() == names
    assert found["ratios"].keys() == names - {f"{PLAIN}, local", f"{BARE}, S3"}
    assert all(figure > 0 for figure in found["images_per_s"][0].values())
    assert sum(f"round 1 of 1: {name}: " in done.out for name in names) == len(names)
    text = (tmp_path / "pipeline.md").read_text()
    assert "USD a million images at 0.02 a core hour" in text
    assert (tmp_path / "pipeline-stages.svg").read_text().startswith("<svg")
    if "Too few images" not in text:  # else a machine under load let one worker run dry first
        assert {"network", "commit"} <= found["stages"][f"{JOB}, local"].keys()
        assert "raylet" in found["processes"][f"{JOB}, S3"]
