"""A Ray that this process started has no actor but the workers; on any other, Ray Data is left as it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import ray.data
from ray.data._internal import stats
from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler as autoscaler
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
)
_JOB = """
import json, sys
import ray
from ray.util import list_named_actors
from pipeline.run import flow
from tests.support.runs import segment, write_tars
from pathlib import Path
folder = Path(sys.argv[1])
if len(sys.argv) > 2:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
flow.start_ray(debug=False)
summary = segment(write_tars(folder / "in", 4, 8), folder / "out")
print(json.dumps([str(summary.error), [each["name"] for each in list_named_actors(all_namespaces=True)]]))
"""


def _values() -> list[object]:
    return [vars(owner)[name] for owner, name in _PATCHED]


def _actors_after_a_job(folder: Path, *how: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _JOB, str(folder), *how], stdout=subprocess.PIPE, text=True, check=True, timeout=120,
        env=os.environ | {"RAY_ADDRESS": "local"},
    )  # fmt: skip
    error, actors = json.loads(done.stdout.splitlines()[-1])
    assert error == "None"
    return sorted(actors)


def test_a_ray_of_its_own_has_no_actors_for_others(tmp_path: Path) -> None:
    assert _actors_after_a_job(tmp_path) == []


def test_a_ray_that_was_there_before_has_them(tmp_path: Path) -> None:
    assert _actors_after_a_job(tmp_path, "there before") == [
        "ActorLocationTracker", "AutoscalingCoordinator", "datasets_stats_actor",
    ]  # fmt: skip


@pytest.mark.usefixtures("local_ray")
class TestOnTheRayOfThisSession:
    def test_all_is_as_before_when_a_pass_is_over(self) -> None:
        before = _values()
        with own_ray.without_actors_for_others():
            assert all(during is not was for during, was in zip(_values(), before, strict=True))
        assert _values() == before

    def test_where_ray_is_another_its_actors_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(stats._StatsManager, "gen_dataset_id_from_stats_actor")
        monkeypatch.setattr(own_ray, "_POOL", "ray.data._internal.moved")
        before = [vars(owner).get(name) for owner, name in _PATCHED]
        with own_ray.without_actors_for_others():
            changed = [vars(owner).get(name) is not was for (owner, name), was in zip(_PATCHED, before, strict=True)]
        assert changed == [False, False, False, False, True, False, False]

    def test_a_worker_that_dies_is_started_again(self, tmp_path: Path) -> None:
        class Dies:
            def __call__(self, batch: dict[str, object]) -> dict[str, object]:
                if not (marker := tmp_path / "died").exists():
                    marker.touch()
                    os._exit(1)
                return batch

        with own_ray.without_actors_for_others():
            rows = ray.data.range(4, override_num_blocks=4).map_batches(
                Dies, num_cpus=1, compute=ray.data.ActorPoolStrategy(size=2)
            )
            assert sorted(row["id"] for row in rows.take_all()) == [0, 1, 2, 3]
