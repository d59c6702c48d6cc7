"""Where an image's milliseconds go: rows that add up."""

import pytest

from jobs.benchmarks.contenders import Measured
from jobs.benchmarks.cpu_shares import BENCHMARK, IDLE, WORKERS
from jobs.benchmarks.stages import ELSE, HELPERS, REST, breakdown, core_ms, mean_of, processes, row_names, stages_grid
from jobs.benchmarks.steady import Window


def _measured(**cpu_s: float) -> Measured:
    """10 images a second for 10 s by two workers, each of 200 ms an image, 150 of them in the network, 20 in `commit`."""
    window = Window(
        start=0, stop=10, images=90, images_per_s=10, wall_ms=200, cpu_ms=180, milliseconds={"commit": 20.0, "network": 150.0}
    )
    return Measured(images=120, seconds=20, window=window, cpu_s={WORKERS: 18.0, **cpu_s})


def test_rows_add_up_to_all_core_time() -> None:
    rows = breakdown(_measured(**{"raylet": 0.4, "driver": 0.6, IDLE: 0.3, BENCHMARK: 0.1}), workers=2)
    assert rows == pytest.approx({"commit": 20, "network": 150, REST: 10, HELPERS: 10, IDLE: 3, ELSE: 7})
    assert sum(rows.values()) == pytest.approx(2 * 1000 / 10)
    assert core_ms(rows) == pytest.approx(190)
    assert row_names({"a": rows}) == ["network", "commit", REST, HELPERS, IDLE, ELSE]


def test_idle_cores_are_never_more_than_what_is_left() -> None:
    rows = breakdown(_measured(**{IDLE: 99.0}), workers=2)
    assert rows[IDLE] == pytest.approx(20)
    assert rows[ELSE] == pytest.approx(0)


def test_processes_leave_workers_and_the_benchmark_out() -> None:
    assert processes(_measured(**{"raylet": 0.4, IDLE: 1.0, BENCHMARK: 3.0})) == pytest.approx({"raylet": 4.0})


def test_without_a_steady_state_there_are_no_rows() -> None:
    assert breakdown(Measured(images=12, seconds=9, window=None), workers=2) == {}
    assert mean_of([{}, {"network": 2.0}, {"network": 4.0, "read": 1.0}]) == {"network": 3.0, "read": 0.5}
    grid = stages_grid({"a": {}, "b": {"network": 3.0, "new stage": 1.0}})
    assert [tuple(row) for row in grid.rows] == [
        ("network", "-", "3.00"), ("new stage", "-", "1.00"), ("together", "0.00", "4.00"),
    ]  # fmt: skip
