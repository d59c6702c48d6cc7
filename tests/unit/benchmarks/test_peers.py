"""The race against the peers: how speed is told, what counts as a wrong label, and a small race of real processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import Bug
from pipeline.labels.png import encode_mask
from tests.benchmarks import peers
from tests.benchmarks.peer_results import Stamps, compare, events_of, read_masks, rough_rate
from tests.benchmarks.peers import Ground, Race, Run
from tests.benchmarks.recipes import Task
from tests.benchmarks.runs import Stamp
from tests.conftest import ROOT

MASK = np.arange(12, dtype=np.uint8).reshape(3, 4)


def _batches(start: float, seconds: float, images: int, batches: int) -> list[Stamp]:
    return [Stamp(unix_s=start + number * seconds, images=images) for number in range(batches)]


def test_a_rough_rate_is_that_of_all_together() -> None:
    events: Stamps = {"1": _batches(10.0, 2.0, 16, 3), "2": _batches(17.0, 4.0, 16, 2)}
    assert rough_rate(events) == pytest.approx(4 * 16 / 11)
    assert rough_rate({"1": _batches(1.0, 1.0, 4, 1)}) == 0


def test_one_short_run_makes_all_rates_those_of_whole_runs() -> None:
    race = Race(runs={"a": [Run(10, 5.0, 4.0)], "b": [Run(20, 8.0, 5.0)]})
    assert (race.steady, race.rounds) == (True, [{"a": 5.0, "b": 8.0}])
    race.runs["b"] = [Run(20, None, 5.0)]
    assert (race.steady, race.rounds) == (False, [{"a": 2.5, "b": 4.0}])


def test_events_come_back_by_worker_and_in_order(tmp_path: Path) -> None:
    task = Task(photos="p", events=str(tmp_path / "events"), workers=2)
    assert events_of(task) == {}
    task.finished(3)
    task.finished(2)
    (found,) = events_of(task).values()
    assert [stamp.images for stamp in found] == [3, 2]
    Path(task.events).write_text("3.5 7 5\n2.0 8 5\n1.5 7 4\n")
    assert events_of(task) == {
        "7": [Stamp(unix_s=1.5, images=4), Stamp(unix_s=3.5, images=5)],
        "8": [Stamp(unix_s=2.0, images=5)],
    }


@pytest.mark.parametrize("layout", ["files", "recipe", "rows", "run"])
def test_every_image_must_be_there_exactly_once(tmp_path: Path, layout: str) -> None:
    def write(*ids: str) -> None:
        if layout == "files":
            for key in ids:
                (tmp_path / f"{key}.png").write_bytes(encode_mask(MASK))
            return
        folder = tmp_path / "masks" if layout == "run" else tmp_path
        folder.mkdir(exist_ok=True)
        masks = [encode_mask(MASK)] * len(ids)
        structs = [{"bytes": mask, "path": None} for mask in masks]
        paths = [f"file:///photos/{key}.jpg" for key in ids]
        columns: dict[str, Any] = {
            "run": {"image_id": list(ids), "mask": structs},
            "rows": {"path": paths, "row": [{"width": 1, "mask": mask} for mask in structs]},
            "recipe": {"path": paths, "mask": masks},
        }[layout]
        pq.write_table(pa.table(columns), folder / f"{'-'.join(ids)}.parquet")

    write("a", "b")
    found = read_masks("it", tmp_path, ["b", "a"])
    assert np.array_equal(found["a"], MASK)
    with pytest.raises(Bug, match="it: 2 masks of 2 of 3 images"):
        read_masks("it", tmp_path, ["a", "b", "c"])
    if layout != "files":
        write("b")
        with pytest.raises(Bug, match="it: 3 masks of 2 of 2 images"):
            read_masks("it", tmp_path, ["a", "b"])


def test_other_labels_are_an_error_and_no_row() -> None:
    other = MASK.copy()
    other[0, 0] = 200
    compare("it", {"a": MASK}, {"a": MASK}, 1.0)
    compare("it", {"a": other}, {"a": MASK}, 0.9)
    with pytest.raises(Bug, match=r"it: 91\.6667 % of the pixels"):
        compare("it", {"a": other}, {"a": MASK}, 1.0)
    with pytest.raises(Bug, match="the mask of a is"):
        compare("it", {"a": MASK.T}, {"a": MASK}, 0.0)


def test_a_contender_that_fails_names_its_log(tmp_path: Path) -> None:
    ground = Ground(tmp_path, tmp_path / "logs", [b"no photograph"])
    with pytest.raises(Bug, match=r"exited with 1: see .*no-such-contender\.log"):
        ground.run("no-such-contender", 1, [Task(photos="", workers=1)])
    assert "KeyError" in (tmp_path / "logs" / "no-such-contender.log").read_text()


def test_a_recipe_that_labels_something_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop over a DataLoader for real; then on pixels that are not the photograph's."""
    from jobs.bench import photographs

    ground = Ground(tmp_path, tmp_path / "logs", [data for _, data in photographs()][:2])
    template = Task(photos="", workers=1, short_side=64)
    peers.check("dataloader", ground, template)
    run = Ground.run

    def upside_down(self: Ground, *arguments: Any, **options: Any) -> tuple[float, list[Task]]:
        seconds, (task,) = run(self, *arguments, **options)
        for file in Path(str(task.keep)).glob("*.npy"):
            np.save(file, np.load(file)[::-1])
        return seconds, [task]

    monkeypatch.setattr(Ground, "run", upside_down)
    with pytest.raises(Bug, match="dataloader: what it fed the network is not"):
        peers.check("dataloader", ground, template)


@pytest.mark.slow
def test_a_small_race(tmp_path: Path) -> None:
    arguments = ["--only", "dataloader", "--only", "maskfleet", "--images", "6", "--rounds", "1", "--short-side", "64"]
    command = [sys.executable, "-m", "tests.benchmarks", "peers", *arguments, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("peers_*.json")
    found = json.loads(file.read_text())
    images = {name: [run["images"] for run in runs] for name, runs in found["runs"].items()}
    assert images == {"dataloader": [6], "maskfleet": [48]}
    assert "DataLoader loop, best batch" in file.with_suffix(".md").read_text()
    assert file.with_suffix(".svg").read_text().startswith("<svg")
