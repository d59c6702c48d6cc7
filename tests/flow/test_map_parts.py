"""Any function over the parts of a run, on the actor pool: one result per part, whatever dies."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Workers
from pipeline.driver.ray_data import map_parts
from pipeline.errors import Bug, Damaged, Incomplete
from pipeline.output.parts import PartName
from pipeline.output.reports import Event, Events, PartReport
from tests.support.mapped import Masks
from tests.support.runs import parts_in, segment, write_tars

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mapped")
    assert segment(write_tars(folder / "in", 3, 10), folder / "out").error is None
    return folder / "out"


def _mapped(out: Path, function: Masks, events: Events | None = None, workers: int = 1) -> list[tuple[PartName, Any]]:
    found: list[tuple[PartName, Any]] = []
    pool = Workers(workers, workers)
    map_parts(function, parts_in(out), lambda part, result: found.append((part, result)), workers=pool, events=events)
    return found


def test_each_part_has_one_result_from_a_worker(out: Path) -> None:
    events, heard = Events(), list[Event]()
    events.listen(heard.append)
    found = _mapped(out, Masks(str(out)), events, workers=2)
    assert sorted(part for part, _ in found) == parts_in(out)
    assert sorted(result["masks"] for _, result in found) == [2, 2, 2, 4, 4, 4, 4, 4, 4]
    assert len([event for event in heard if isinstance(event, PartReport)]) == 9


@pytest.mark.parametrize("trouble", ["store", "killed"])
def test_what_fails_once_is_asked_again_and_taken_once(out: Path, tmp_path: Path, trouble: str) -> None:
    found = _mapped(out, Masks(str(out), trouble, str(tmp_path / "marker")), workers=2)
    assert (tmp_path / "marker").exists()
    assert sorted(part for part, _ in found) == parts_in(out)


def test_a_store_that_never_answers_leaves_parts_and_says_so(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.driver.rounds._PAUSE_S", 0.0)
    with pytest.raises(Incomplete, match=r"3 parts remain \(503\)"):
        _mapped(out, Masks(str(out), "store"))


@pytest.mark.parametrize(("trouble", "error", "text"), [("damaged", Damaged, "no footer"), ("bug", Bug, "no such thing")])
def test_what_another_try_would_meet_again_ends_it(out: Path, trouble: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _mapped(out, Masks(str(out), trouble))
