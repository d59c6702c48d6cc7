"""The job against the bare loop: the loop labels as the job does, the task is fair, and the command leaves what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.bench import photographs
from pipeline.errors import Bug, UsageError
from tests.benchmarks.job import JOB, LOOP, PARTS_PER_TAR, Done, Task, local_place, main, make_task, measure, report_of
from tests.benchmarks.loop import mask_digest, run_loop
from tests.conftest import ROOT
from tests.support.labelled import label

DATA = [data for _, data in photographs()]


@pytest.fixture(scope="module")
def task() -> Task:
    return make_task(DATA, 12, 2, 64, "fp32")


def test_every_worker_has_as_many_whole_tars() -> None:
    for images, workers in ((12, 2), (13, 2), (384, 2), (500, 3)):
        made = make_task(DATA, images, workers, 64, "fp32")
        assert made.images >= images
        tars, rest = divmod(made.images, PARTS_PER_TAR * len(made.part))
        assert (tars % workers, rest) == (0, 0)


def test_the_bare_loop_leaves_the_masks_of_the_job(task: Task, tmp_path: Path) -> None:
    from tests.benchmarks.loop import masks_digest

    with local_place(task) as place:
        ran, digest = run_loop(task.network, place.source, 2, len(task.part))
        label([Path(place.source)], tmp_path / "out", part_images=len(task.part))
    assert [sum(stamp.images for stamp in stamps) for stamps in ran.stamps.values()] == [6, 6]
    assert digest == masks_digest(str(tmp_path / "out"))
    last = ran.stamps[0][-1]
    assert {"read", "decode", "resize", "network", "labels", "encode"} <= last.milliseconds.keys()
    assert last.cpu_s >= sum(last.milliseconds.values()) / 1000


def test_a_photograph_that_is_none_is_one_line() -> None:
    with pytest.raises(UsageError, match="--photos: not an image"):
        make_task([*DATA, b"no photograph"], 200, 2, 64, "fp32")


def test_a_digest_tells_shard_index_and_bytes_apart() -> None:
    assert mask_digest("/a/0.tar", 1, b"x") == mask_digest("s3://b/0.tar", 1, b"x")
    others = [("/a/0.tar", 1, b"x"), ("/a/1.tar", 1, b"x"), ("/a/0.tar", 2, b"x"), ("/a/0.tar", 1, b"y")]
    assert len({mask_digest(*each) for each in others}) == 4


def _done(steady_per_s: float | None, whole_per_s: float, masks: int = 1, **more: dict[str, float]) -> Done:
    return Done(
        seconds=9, steady_per_s=steady_per_s, whole_per_s=whole_per_s, masks=masks, stages=more.get("stages", {}), beside={}
    )


def test_masks_that_differ_end_the_benchmark() -> None:
    same = {"a": lambda: _done(9, 5), "b": lambda: _done(8, 5)}
    assert [len(runs) for runs in measure(same, 2, same_labels=True).values()] == [2, 2]
    other = {"a": lambda: _done(9, 5), "b": lambda: _done(8, 5, masks=2)}
    with pytest.raises(Bug, match="b: its masks are not those of the runs before it"):
        measure(other, 2, same_labels=True)
    assert measure(other, 2, same_labels=False)
    numbers = iter(range(9))
    with pytest.raises(Bug, match="a: its masks"):
        measure({"a": lambda: _done(9, 5, masks=next(numbers))}, 2, same_labels=False)


def test_rates_are_all_steady_or_all_with_start_up(task: Task) -> None:
    names = (f"{JOB}, local", f"{LOOP}, local")
    steady = {name: [_done(rate, 4, stages={"network": 1000 / rate})] * 2 for name, rate in zip(names, (20.0, 10.0), strict=True)}
    report = report_of(task, steady)
    assert report.values["images_per_s"] == [dict(zip(names, (20.0, 10.0), strict=True))] * 2
    assert report.values["ratios_by_core_time"][names[0]] == "2.00 (2.00-2.00)"
    row = list(report.grids[0].rows[0])
    assert row == [names[0], "20.00", "10.00", "4.00", "2.00 (2.00-2.00)"]
    steady[names[1]] = [_done(None, 5)] * 2
    short = report_of(task, steady)
    assert short.values["images_per_s"] == [dict(zip(names, (4, 5), strict=True))] * 2
    assert "Too few images" in short.to_markdown()


def test_a_folder_that_is_no_checkout_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--against", str(tmp_path)])
    assert done.exit_code == 2
    assert done.output.splitlines() == [f"maskfleet: --against {tmp_path}: no checkout of maskfleet"]


def _benchmark(*arguments: object) -> str:
    command = [sys.executable, "-m", "tests.benchmarks", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_command_measures_both_places(tmp_path: Path) -> None:
    said = _benchmark("pipeline", "--images", 120, "--rounds", 1, "--short-side", 64, "--source", "both", "--out", tmp_path)
    names = {f"{kind}, {place}" for kind in (JOB, LOOP) for place in ("local", "S3")}
    (file,) = tmp_path.glob("pipeline_*.json")
    found = json.loads(file.read_text())
    assert found["runs"].keys() == names
    assert found["ratios"].keys() == {f"{JOB}, local", f"{JOB}, S3"}
    assert all(figure > 0 for figure in found["images_per_s"][0].values())
    assert sum(f"round 1 of 1: {name}: " in said for name in names) == len(names)
    assert said.count("byte for byte") == 2
    if "Too few images" not in said:  # else a machine under load let one worker run dry first
        assert {"network", "commit"} <= found["stages"][f"{JOB}, local"].keys()
        assert found["runs"][f"{JOB}, S3"][0]["beside"]["raylet"] > 0


@pytest.mark.slow
def test_two_versions_side_by_side(tmp_path: Path) -> None:
    """This checkout against itself, under another path."""
    (tmp_path / "other").symlink_to(ROOT)
    said = _benchmark(
        "pipeline", "--images", 120, "--rounds", 2, "--short-side", 64, "--against", tmp_path / "other", "--out", tmp_path
    )
    (file,) = tmp_path.glob("pipeline_*.json")
    runs = json.loads(file.read_text())["runs"]
    assert [len(each) for each in runs.values()] == [2, 2]
    parts = [each["parts"] for found in runs.values() for each in found]
    assert len(parts[0]) > 5
    assert all(each == parts[0] for each in parts)
    assert f"{len(parts[0])} of {len(parts[0])} part files are equal, byte for byte" in said


def test_what_the_job_says_is_told_if_it_fails(tmp_path: Path) -> None:
    from tests.benchmarks.runs import run_segment

    with pytest.raises(Bug, match=r"(?s)exited with 4.*--input"):
        run_segment(["--input", tmp_path / "nothing", "--output", tmp_path / "out", "--weights", "bundled"])
