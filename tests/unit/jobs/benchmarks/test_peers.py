"""The race against the peers: how speed is told, what counts as a wrong label, and a small race of real processes."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from jobs.benchmarks import peers
from pipeline.labels.png import encode_mask
from tests.conftest import Finished
from tests.peers import contenders, table
from tests.peers.check import agreement, read_masks
from tests.peers.contenders import CONTENDERS, PeerFailed
from tests.peers.measure import Race, Run
from tests.peers.task import Event, Task, from_json, read_events, rough_rate, steady_rate, to_json

MASK = np.arange(12, dtype=np.uint8).reshape(3, 4)


def _batches(worker: str, start: float, seconds: float, images: int, batches: int) -> list[Event]:
    return [Event(start + number * seconds, worker, images) for number in range(batches)]


def test_a_rate_leaves_out_the_start_and_waits_of_one_worker_for_another() -> None:
    events = _batches("1.1", 10.0, 2.0, 16, 3) + _batches("2.2", 17.0, 4.0, 16, 2)
    assert steady_rate(events, 2) == pytest.approx(16 / 2 + 16 / 4)
    late = [*_batches("1.1", 10.0, 2.0, 16, 3), Event(14.0, "2.2", 16)]
    assert steady_rate(late, 2) == pytest.approx(2 * 16 / 2)
    assert steady_rate(_batches("1.1", 10.0, 2.0, 16, 3), 2) is None  # nothing is known of the other worker
    assert steady_rate([Event(1.0, "1.1", 4), Event(1.0, "2.2", 4)], 2) is None
    assert rough_rate(events) == pytest.approx(4 * 16 / 11)


def test_one_short_run_makes_all_rates_those_of_whole_runs() -> None:
    race = Race(runs={"a": [Run(10, 5.0, 4.0)], "b": [Run(20, 8.0, 5.0)]})
    assert (race.steady, race.rounds) == (True, [{"a": 5.0, "b": 8.0}])
    assert race.runs["a"][0].besides_s == pytest.approx(2.0)
    race.runs["b"] = [Run(20, None, 5.0)]
    assert (race.steady, race.rounds) == (False, [{"a": 2.5, "b": 4.0}])


def test_tasks_and_their_events_cross_processes(tmp_path: Path) -> None:
    task = Task(photos="p", out="o", events=str(tmp_path / "events"), workers=2, threads=None, keep="k")
    assert from_json(to_json([task])) == [task]
    task.finished(3)
    task.finished(2)
    first, second = read_events(tmp_path / "events")
    assert (first.images, second.images, first.worker) == (3, 2, second.worker)
    assert read_events(tmp_path / "none") == []


def test_the_parts_of_the_job_are_stamped_by_its_workers(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert contenders._events(trace) == []
    lines = [
        {"pid": pid, "inferred": 5, "unix_s": at, "cpu_s": 1.0, "milliseconds": {}} for pid, at in ((7, 1.5), (8, 2.0), (7, 3.5))
    ]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert contenders._events(trace) == [Event(1.5, "7", 5), Event(3.5, "7", 5), Event(2.0, "8", 5)]


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
    with pytest.raises(PeerFailed, match="it: 2 masks of 2 of 3 images"):
        read_masks("it", tmp_path, ["a", "b", "c"])
    if layout != "files":
        write("b")
        with pytest.raises(PeerFailed, match="it: 3 masks of 2 of 2 images"):
            read_masks("it", tmp_path, ["a", "b"])


def test_other_labels_are_an_error_and_no_row() -> None:
    other = MASK.copy()
    other[0, 0] = 200
    assert agreement("it", {"a": MASK}, {"a": MASK}, 1.0) == 1.0
    assert agreement("it", {"a": other}, {"a": MASK}, 0.9) == pytest.approx(11 / 12)
    with pytest.raises(PeerFailed, match=r"it: 91\.6667 % of the pixels"):
        agreement("it", {"a": other}, {"a": MASK}, 1.0)
    with pytest.raises(PeerFailed, match="the mask of a is"):
        agreement("it", {"a": MASK.T}, {"a": MASK}, 0.0)


def test_a_peer_that_is_not_installed_is_a_row_that_says_so() -> None:
    absent = replace(CONTENDERS[2], needs="no_such_package")
    assert absent.missing
    row = table._speeds([absent], Race(), {}).rows[0]
    assert row[0] == "Daft recipe, best batch"
    assert "not measured: pip install" in row[1]


def test_without_a_checkout_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tests.peers.table", None)  # how Python spells "cannot be imported"
    done = CliRunner().invoke(peers.main, [])
    assert done.exit_code == 2
    assert "bench peers runs in a checkout" in done.output
    assert "Traceback" not in done.output


def test_the_names_of_the_flag_are_the_contenders() -> None:
    assert tuple(contender.name for contender in CONTENDERS) == peers.NAMES


def test_a_contender_that_fails_names_its_log(tmp_path: Path) -> None:
    task = Task(photos=str(tmp_path), out=str(tmp_path), events=str(tmp_path / "events"), workers=1, precision="no such one")
    pool = next(contender for contender in CONTENDERS if contender.name == "multiprocessing")
    broken = replace(pool, runs="no-such-contender")
    with pytest.raises(PeerFailed, match=r"exited with 1: see .*log"):
        contenders.run_tasks(broken, [task], tmp_path / "log")
    assert "no-such-contender" in (tmp_path / "log").read_text()


def _race(job: Callable[..., Finished], out: Path, *names: str) -> dict[str, Any]:
    only = [argument for name in names for argument in ("--only", name)]
    done = job("bench", "peers", *only, "--images", 6, "--pairs", 1, "--short-side", 64, "--out", out)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads((out / "peers.json").read_text())
    assert {name: [run["images"] for run in runs] for name, runs in found["runs"].items()} == {name: [48] for name in names}
    return found


def test_a_small_race(job: Callable[..., Finished], tmp_path: Path) -> None:
    found = _race(job, tmp_path, "multiprocessing")
    assert found["agreement"]["multiprocessing"] > 0.999
    assert "our worker under a Pool" in (tmp_path / "peers.md").read_text()
    assert (tmp_path / "peers-speed.svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_the_job_and_a_pool_give_the_same_masks(job: Callable[..., Finished], tmp_path: Path) -> None:
    found = _race(job, tmp_path, "multiprocessing", "maskfleet")
    assert found["agreement"]["multiprocessing"] == 1.0
    assert found["agreement"]["maskfleet"] > 0.999
    assert found["maskfleet_ratio"]["multiprocessing"]["pairs"] == 1
