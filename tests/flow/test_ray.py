"""What the job asks of Ray, seen at Ray: a quiet session, and a driver that looks as often as it has to."""

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data

from pipeline.run import flow
from pipeline.run.span import Receipt
from tests.support.runs import segment, write_tars

pytestmark = pytest.mark.usefixtures("local_ray")


def test_threads_of_workers_share_one_arena(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0)
    def arenas(path: str) -> None:
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        stream = ctypes.c_void_p(libc.fopen(path.encode(), b"w"))
        libc.malloc_info(0, stream)
        libc.fclose(stream)

    ray.get(arenas.remote(str(tmp_path / "malloc.xml")))
    assert (tmp_path / "malloc.xml").read_text().count("<heap nr=") == 1


@pytest.mark.parametrize(
    ("took", "pause_s"),
    [([], 0.0), ([0.2], 0.0), ([60.0, 0.2], 0.0), ([0.9, 2.0], 0.3), ([60.0], 0.5), ([0.2, *[60.0] * 16], 0.5)],
)
def test_the_driver_pauses_less_than_a_part_takes(took: list[float], pause_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow._Pace, "took", flow._Pace.took.copy())
    flow._Pace.took.extend(took)
    assert flow._Pace.pause_s() == pytest.approx(pause_s)


class _Sleeper:
    def __call__(self, batch: dict[str, object]) -> dict[str, object]:
        time.sleep(2)
        return batch


@pytest.mark.parametrize(("part_s", "turns"), [(0.2, range(10, 60)), (60.0, range(1, 7))])
def test_the_loop_of_ray_turns_more_slowly_where_parts_are_long(
    part_s: float, turns: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []

    class Counted(flow._Pace):
        took = flow._Pace.took.copy()

        def on_execution_step(self, executor: object) -> None:
            super().on_execution_step(executor)
            counted.append(time.monotonic())

    Counted.took.append(part_s)
    monkeypatch.setattr(flow, "_Pace", Counted)
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "custom_execution_callback_classes", [])  # of the tests behind this one
    flow._configure(context)
    rows = ray.data.from_items([{"x": 1}]).map_batches(_Sleeper, num_cpus=1, compute=ray.data.ActorPoolStrategy(size=1))
    assert rows.take_all() == [{"x": 1}]
    last_s = [at for at in counted if counted[-1] - at < 2]  # its start is not counted: how long it takes depends on the machine
    assert len(last_s) in turns


def test_the_pause_follows_the_receipts_of_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, known = flow.label, []

    def watched(*arguments: Any) -> Iterator[Receipt]:
        for receipt in real(*arguments):
            known.append((receipt.seconds, flow._Pace.took[-1]))
            yield receipt

    monkeypatch.setattr(flow, "label", watched)
    assert segment(write_tars(tmp_path / "in", 1, 8), tmp_path / "out").error is None
    assert len(known) > 1
    assert all(seconds == last > 0 for seconds, last in known)
    assert not flow._Pace.took  # of another pass, and of other users of Ray Data in this process
