"""Whose CPU time it is."""

import subprocess
import sys
import time

import pytest

from jobs.benchmarks.cpu_shares import WORKERS, CpuShares, role

BUSY = "import time\nwhile time.process_time() < 1.0: pass\nprint('done', flush=True)\ntime.sleep(60)"


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
        with CpuShares(root.pid, "driver") as shares:
            assert root.stdout is not None
            assert root.stdout.readline() == "done\n"
            burnt = time.time()
            shares._sample()
        used = shares.between(started, burnt + 60)
        assert 0.5 < used[WORKERS] < 3
        assert used["driver"] < 0.5
    finally:
        for child in shares._processes()[::-1]:
            child.kill()
        root.communicate()


def test_linear_between_samples() -> None:
    shares = CpuShares(1, "driver", samples=[(10.0, {"a": 1.0}), (12.0, {"a": 2.0, "b": 4.0}), (14.0, {"a": 2.0, "b": 6.0})])
    assert shares.between(11, 13) == pytest.approx({"a": 0.5, "b": 3.0})
    assert shares.between(0, 99) == pytest.approx({"a": 1.0, "b": 6.0})
