"""Where an image's milliseconds go: rows that add up."""

import pytest

from tests.benchmarks.runs import BENCHMARK, IDLE, WORKERS, Ran, Watch, Window
from tests.benchmarks.stages import (
    ELSE,
    HELPERS,
    REST,
    breakdown,
    core_ms,
    mean_of,
    processes,
    processes_grid,
    row_names,
    stages_grid,
)

# 10 images a second for 10 s by two workers, each of 200 ms per image, 150 of them in the network, 20 in `commit`.
WINDOW = Window(
    start=0, stop=10, images=90, images_per_s=10, wall_ms=200, cpu_ms=180, milliseconds={"commit": 20.0, "network": 150.0}
)


def _ran(**cpu_s: float) -> Ran:
    watch = Watch(1, "driver")
    watch.samples = [(0.0, {}), (10.0, {WORKERS: 18.0, **cpu_s}), (11.0, {WORKERS: 18.0, **cpu_s})]
    return Ran(began=0, seconds=20, stamps={}, watch=watch)


def test_rows_add_up_to_all_core_time() -> None:
    rows = breakdown(_ran(**{"raylet": 0.4, "driver": 0.6, IDLE: 0.3, BENCHMARK: 0.1}), WINDOW, workers=2)
    assert rows == pytest.approx({"commit": 20, "network": 150, REST: 10, HELPERS: 10, IDLE: 3, ELSE: 7})
    assert sum(rows.values()) == pytest.approx(2 * 1000 / 10)
    assert core_ms(rows) == pytest.approx(190)
    assert row_names({"a": rows}) == ["network", "commit", REST, HELPERS, IDLE, ELSE]


def test_idle_cores_are_never_more_than_what_remains() -> None:
    rows = breakdown(_ran(**{IDLE: 99.0}), WINDOW, workers=2)
    assert rows[IDLE] == pytest.approx(20)
    assert rows[ELSE] == pytest.approx(0)


def test_processes_leave_workers_and_the_benchmark_out() -> None:
    assert processes(_ran(**{"raylet": 0.4, IDLE: 1.0, BENCHMARK: 3.0}), WINDOW) == pytest.approx({"raylet": 4.0})


def test_means_count_a_stage_that_is_absent_as_nothing() -> None:
    assert mean_of([{"network": 2.0}, {"network": 4.0, "read": 1.0}]) == {"network": 3.0, "read": 0.5}
    grid = stages_grid({"a": {}, "b": {"network": 3.0, "new stage": 1.0}})
    assert [tuple(row) for row in grid.rows] == [
        ("network", "-", "3.00"), ("new stage", "-", "1.00"), ("together", "0.00", "4.00"),
    ]  # fmt: skip


def test_the_most_expensive_process_comes_first() -> None:
    grid = processes_grid({"a": {"raylet": 1.0, "driver": 2.0}, "b": {"raylet": 3.0}})
    assert [tuple(row) for row in grid.rows] == [("raylet", "1.00", "3.00"), ("driver", "2.00", "-")]
