"""The window in which all workers are at work."""

import pytest

from jobs.benchmarks.steady import Stamp, steady


def _stamps(*times: float, images: int = 10, cpu_s: float = 0.5) -> list[Stamp]:
    """A stamp at each time; between two lie `cpu_s` CPU seconds, 0.4 of them in the network."""
    return [
        Stamp(unix_s=time, images=images, cpu_s=number * cpu_s, milliseconds={"network": number * 400.0})
        for number, time in enumerate(times)
    ]


def test_rates_of_workers_add_up() -> None:
    window = steady({1: _stamps(0, 1, 2, 3), 2: _stamps(0, 2, 4)})
    assert window is not None
    assert (window.start, window.stop) == (0, 3)
    assert window.images_per_s == 10 + 5  # 30 images in 3 s; 10 in 2 s, as the second's last stamp lies outside
    assert window.images == 40
    assert window.wall_ms == pytest.approx(1000 * (3 + 2) / 40)
    assert window.cpu_ms == pytest.approx(1000 * 0.5 * 4 / 40)
    assert window.milliseconds == {"network": 400.0 * 4 / 40}


def test_start_up_and_tail_are_left_out() -> None:
    """The first worker starts 5 s early and runs alone; the second has a slow tail of its own."""
    window = steady({1: _stamps(0, 1, 2, 3, 4, 5, 6, 7, 8), 2: _stamps(5, 6, 7, 8, 60)})
    assert window is not None
    assert (window.start, window.stop) == (5, 8)
    assert window.images_per_s == 20


def test_a_stage_that_begins_later_counts_from_nothing() -> None:
    late = [
        Stamp(unix_s=0, images=1, cpu_s=0),
        Stamp(unix_s=1, images=1, cpu_s=1),
        Stamp(unix_s=2, images=1, cpu_s=2, milliseconds={"commit": 8.0}),
    ]
    window = steady({1: late})
    assert window is not None
    assert window.milliseconds == {"commit": 4.0}


@pytest.mark.parametrize(
    "stamps",
    [{}, {1: _stamps(0, 1, 2), 2: []}, {1: _stamps(0, 1, 2), 2: _stamps(1.5)}, {1: _stamps(0, 1), 2: _stamps(2, 3)}],
)
def test_too_short_for_a_steady_state(stamps: dict[int, list[Stamp]]) -> None:
    assert steady(stamps) is None
