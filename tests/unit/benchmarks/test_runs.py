"""A run that is watched: the window in which all workers are at work, and whose CPU time it is."""

import json
import subprocess
import sys
import time

import pytest

from tests.benchmarks.runs import WORKERS, Stamp, Watch, read_trace, role, steady

BUSY = "import time\nwhile time.process_time() < 1.0: pass\nprint('done', flush=True)\ntime.sleep(60)"


def _stamps(*times: float, images: int = 10, cpu_s: float = 0.5) -> list[Stamp]:
    """A stamp at each time; between two lie `cpu_s` CPU seconds, 0.4 of them in the network."""
    return [
        Stamp(unix_s=time, images=images, cpu_s=number * cpu_s, milliseconds={"network": number * 400.0})
        for number, time in enumerate(times)
    ]


def test_rates_of_workers_add_up() -> None:
    window = steady({1: _stamps(0, 1, 2, 3), 2: _stamps(0, 2, 4)}, 2)
    assert window is not None
    assert (window.start, window.stop) == (0, 3)
    assert window.images_per_s == 10 + 5  # 30 images in 3 s; 10 in 2 s, as the second's last stamp lies outside
    assert window.images == 40
    assert window.wall_ms == pytest.approx(1000 * (3 + 2) / 40)
    assert window.cpu_ms == pytest.approx(1000 * 0.5 * 4 / 40)
    assert window.milliseconds == {"network": 400.0 * 4 / 40}


def test_start_up_and_tail_are_left_out() -> None:
    """The first worker starts 5 s early and runs alone; the second has a slow tail of its own."""
    window = steady({1: _stamps(0, 1, 2, 3, 4, 5, 6, 7, 8), 2: _stamps(5, 6, 7, 8, 60)}, 2)
    assert window is not None
    assert (window.start, window.stop) == (5, 8)
    assert window.images_per_s == 20


def test_a_stage_that_begins_later_counts_from_nothing() -> None:
    late = [
        Stamp(unix_s=0, images=1, cpu_s=0),
        Stamp(unix_s=1, images=1, cpu_s=1),
        Stamp(unix_s=2, images=1, cpu_s=2, milliseconds={"commit": 8.0}),
    ]
    window = steady({1: late}, 1)
    assert window is not None
    assert window.milliseconds == {"commit": 4.0}


@pytest.mark.parametrize(
    "stamps",
    [
        {},
        {1: _stamps(0, 1, 2)},
        {1: _stamps(0, 1, 2), 2: []},
        {1: _stamps(0, 1, 2), 2: _stamps(1.5)},
        {1: _stamps(0, 1), 2: _stamps(2, 3)},
    ],
)
def test_too_short_for_a_steady_state(stamps: dict[int, list[Stamp]]) -> None:
    assert steady(stamps, 2) is None


def test_a_trace_becomes_stamps_by_worker() -> None:
    line = {"shard": "a", "first": 0, "rows": 4, "inferred": 3, "unix_s": 1.5, "cpu_s": 2.0, "milliseconds": {"read": 1}}
    stamps = read_trace("".join(json.dumps(line | {"pid": pid}) + "\n" for pid in (7, 8, 7)))
    assert stamps[7] == [Stamp(unix_s=1.5, images=3, cpu_s=2.0, milliseconds={"read": 1})] * 2
    assert len(stamps[8]) == 1


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("ray::MapWorker(MapBatches(_Worker)).submit", WORKERS),
        ("python -c from multiprocessing.spawn import spawn_main; spawn_main()", WORKERS),
        ("ray::_StatsActor", "Ray's _StatsActor"),
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=y", "raylet"),
        ("/usr/bin/python", "other"),
    ],
)
def test_roles(command: str, name: str) -> None:
    assert role(command) == name


def test_cpu_of_a_process_and_its_child_by_role() -> None:
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}, 'ray::MapWorker'])"
    root = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    started = time.time()
    try:
        with Watch(root.pid, "driver", memory=True) as watch:
            assert root.stdout is not None
            assert root.stdout.readline() == "done\n"
            burnt = time.time()
            watch.sample()
        used = watch.between(started, burnt + 60)
        assert 0.5 < used[WORKERS] < 3
        assert used["driver"] < 0.5
        assert {name == "driver" or int(name) > 1 for _, name, _ in watch.memory} == {True}
        assert all(1 < mib < 500 for _, _, mib in watch.memory)
    finally:
        for child in watch.processes()[::-1]:
            child.kill()
        root.communicate()


def test_linear_between_samples() -> None:
    watch = Watch(1, "driver")
    watch.samples = [(10.0, {"a": 1.0}), (12.0, {"a": 2.0, "b": 4.0}), (14.0, {"a": 2.0, "b": 6.0})]
    assert watch.between(11, 13) == pytest.approx({"a": 0.5, "b": 3.0})
    assert watch.between(0, 99) == pytest.approx({"a": 1.0, "b": 6.0})
