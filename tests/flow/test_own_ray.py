"""A Ray that this process started has no actor but the workers, and no process that serves others; any other is left as it is."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import ray.data
from ray._private.node import Node
from ray.data._internal import stats
from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler as autoscaler
from ray.data._internal.execution import streaming_executor_state as state
from ray.data._internal.execution.operators import actor_pool_map_operator as pool

from pipeline.run import own_ray

_PATCHED = (
    (stats._StatsManager, "register_dataset_to_stats_actor"),
    (stats._StatsManager, "update_execution_metrics"),
    (stats._StatsManager, "update_iteration_metrics"),
    (stats._StatsManager, "gen_dataset_id_from_stats_actor"),
    (autoscaler, "DefaultAutoscalingCoordinator"),
    (pool, "get_or_create_actor_location_tracker"),
    (pool, "get_actor_locations"),
    (state, "time"),
)
_JOB = """
import json, os, sys
import psutil
import ray
from ray.util import list_named_actors
from pipeline.run import flow
from tests.support.runs import segment, write_tars
from pathlib import Path
folder = Path(sys.argv[1])
if "there before" in sys.argv:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
flow.start_ray(debug="--debug" in sys.argv)
summary = segment(write_tars(folder / "in", 4, 8), folder / "out")
actors = [each["name"] for each in list_named_actors(all_namespaces=True)]
scripts = [os.path.basename(arg) for each in psutil.Process().children() for arg in each.cmdline() if arg.endswith(".py")]
print(json.dumps([str(summary.error), actors, scripts]))
"""


def _values() -> list[object]:
    return [vars(owner)[name] for owner, name in _PATCHED]


def _after_a_job(folder: Path, *how: str) -> tuple[list[str], list[str]]:
    """Named actors, and the scripts that are this job's processes."""
    done = subprocess.run(
        [sys.executable, "-c", _JOB, str(folder), *how], stdout=subprocess.PIPE, text=True, check=True, timeout=120,
        env=os.environ | {"RAY_ADDRESS": "local"},
    )  # fmt: skip
    error, actors, scripts = json.loads(done.stdout.splitlines()[-1])
    assert error == "None"
    return sorted(actors), sorted(scripts)


def test_a_ray_of_its_own_serves_nobody_else(tmp_path: Path) -> None:
    assert _after_a_job(tmp_path) == ([], [])


def test_with_debug_it_follows_logs(tmp_path: Path) -> None:
    assert _after_a_job(tmp_path, "--debug") == ([], ["log_monitor.py"])


def test_a_ray_that_was_there_before_is_left_as_it_is(tmp_path: Path) -> None:
    assert _after_a_job(tmp_path, "there before") == (
        ["ActorLocationTracker", "AutoscalingCoordinator", "datasets_stats_actor"],
        ["dashboard.py", "log_monitor.py", "monitor.py"],
    )


@pytest.mark.usefixtures("local_ray")
class TestOnTheRayOfThisSession:
    def test_all_is_as_before_when_a_pass_is_over(self) -> None:
        before = _values()
        with own_ray.quiet_ray_data():
            assert all(during is not was for during, was in zip(_values(), before, strict=True))
        assert _values() == before

    def test_where_ray_is_another_its_actors_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(stats._StatsManager, "gen_dataset_id_from_stats_actor")
        monkeypatch.setattr(own_ray, "_POOL", "ray.data._internal.moved")
        before = [vars(owner).get(name) for owner, name in _PATCHED]
        with own_ray.quiet_ray_data():
            changed = [vars(owner).get(name) is not was for (owner, name), was in zip(_PATCHED, before, strict=True)]
        assert changed == [False, False, False, False, True, False, False, True]

    def test_output_is_looked_for_ten_times_a_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        looks: list[float] = []
        sleep = own_ray._Unhurried.sleep

        def timed(clock: own_ray._Unhurried, seconds: float) -> None:
            started = time.perf_counter()
            sleep(clock, seconds)
            looks.append(time.perf_counter() - started)

        def slow(row: dict[str, int]) -> dict[str, int]:
            time.sleep(1)
            return row

        monkeypatch.setattr(own_ray._Unhurried, "sleep", timed)
        with own_ray.quiet_ray_data():
            rows = ray.data.range(1, override_num_blocks=1).map(slow)
            assert [row["id"] for row in rows.iter_rows()] == [0]
        assert looks
        assert min(looks) >= 0.1

    def test_where_ray_starts_its_processes_otherwise_they_are_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(Node, "start_monitor")
        server, logs = Node.start_api_server, Node.start_log_monitor
        with own_ray.lone_ray(logs=False):
            assert not hasattr(Node, "start_monitor")
            assert Node.start_api_server is not server
            assert Node.start_log_monitor is not logs
        assert (Node.start_api_server, Node.start_log_monitor) == (server, logs)

    def test_a_worker_that_dies_is_started_again(self, tmp_path: Path) -> None:
        class Dies:
            def __call__(self, batch: dict[str, object]) -> dict[str, object]:
                if not (marker := tmp_path / "died").exists():
                    marker.touch()
                    os._exit(1)
                return batch

        with own_ray.quiet_ray_data():
            rows = ray.data.range(4, override_num_blocks=4).map_batches(
                Dies, num_cpus=1, compute=ray.data.ActorPoolStrategy(size=2)
            )
            assert sorted(row["id"] for row in rows.take_all()) == [0, 1, 2, 3]
