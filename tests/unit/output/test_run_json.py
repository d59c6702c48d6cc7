"""`run.json` of several attempts: what is whole stays so, whoever writes last."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import NewerFormat
from pipeline.output.run_json import RunJson
from pipeline.storage.local import LocalStore
from tests.support.overtaken import Overtaken

STORE = LocalStore()


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "out")


def _attempt(out: str, name: str, store: LocalStore = STORE) -> RunJson:
    attempt = RunJson(store, out, name)
    attempt.look()
    return attempt


def _write(attempt: RunJson, state: str, *, files: int = 1, name: str = "a") -> bool:
    return attempt.write({"state": state, "plan_files": files}, {"id": name, "state": state}) is not None


def _said(out: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(Path(out, "run.json").read_text())
    return said


def _complete(out: str, name: str = "winner", files: int = 1) -> Callable[[], object]:
    return lambda: _write(_attempt(out, name), "complete", files=files, name=name)


def test_running_then_complete_and_the_attempts_before_are_kept(out: str) -> None:
    for name in ("a", "b"):
        attempt = _attempt(out, name)
        ours = [attempt.is_ours, _write(attempt, "running", name=name), attempt.is_ours]
        assert ours == [False, True, True]
        assert _said(out)["state"] == "running"
        assert _write(attempt, "complete", name=name)
    assert _said(out) == {
        "state": "complete", "plan_files": 1, "attempts": [{"id": "a", "state": "complete"}, {"id": "b", "state": "complete"}]
    }  # fmt: skip


@pytest.mark.parametrize("state", ["running", "incomplete"])
@pytest.mark.parametrize("began", [True, False])
def test_what_another_found_whole_meanwhile_stays(out: str, state: str, began: bool) -> None:
    slow = _attempt(out, "slow")
    if began:
        _write(slow, "running", name="slow")
    _complete(out)()
    assert not _write(slow, state, name="slow")
    assert _said(out)["state"] == "complete"
    assert _said(out)["attempts"][-1]["id"] == "winner"


@pytest.mark.parametrize("state", ["running", "incomplete", "complete"])
@pytest.mark.parametrize("there", [True, False])
def test_it_stays_too_if_it_comes_between_look_and_put(out: str, state: str, there: bool) -> None:
    if there:
        _write(_attempt(out, "slow"), "running", name="slow")
    slow = _attempt(out, "slow", Overtaken({("replace_if", "run.json"): _complete(out)}))
    assert not _write(slow, state, name="slow")
    assert _said(out)["attempts"][-1]["id"] == "winner"


def test_who_has_looked_at_it_and_then_at_the_parts_knows_better(out: str) -> None:
    """Parts were removed by hand, by `--repair`, or by `--redo`."""
    _complete(out)()
    attempt = _attempt(out, "redo")
    assert _write(attempt, "running", name="redo")
    assert _write(attempt, "incomplete", name="redo")
    assert _said(out)["state"] == "incomplete"


def test_who_sums_up_again_may_write(out: str) -> None:
    slow = _attempt(out, "slow")
    _complete(out)()
    assert not _write(slow, "complete", name="slow")
    slow.look()
    assert _write(slow, "complete", name="slow")
    assert [attempt["id"] for attempt in _said(out)["attempts"]] == ["winner", "slow"]


def test_more_inputs_go_back_to_running(out: str) -> None:
    slow = _attempt(out, "slow")
    _complete(out, files=1)()
    assert _write(slow, "running", files=2, name="slow")
    assert _said(out)["state"] == "running"


def test_what_an_older_version_wrote_does_not_say_how_much_it_covers(out: str) -> None:
    slow = _attempt(out, "slow")
    STORE.replace(f"{out}/run.json", b'{"state": "complete"}')
    assert _write(slow, "running", name="slow")


@pytest.mark.parametrize("other", ["running", "incomplete"])
def test_attempts_that_write_in_turn_lose_nothing(out: str, other: str) -> None:
    a, b = _attempt(out, "a"), _attempt(out, "b")
    for _ in range(3):
        assert _write(a, "running", name="a")
        assert _write(b, other, name="b")
    assert sorted(attempt["id"] for attempt in _said(out)["attempts"]) == ["a", "b"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"attempts": 3, "state": ["complete"]}', b"\xff" * 100, b"[" * 100_000])
def test_half_of_one_and_what_is_none_is_written_over(out: str, data: bytes) -> None:
    STORE.replace(f"{out}/run.json", data)
    assert _write(_attempt(out, "a"), "running")
    assert _said(out)["attempts"] == [{"id": "a", "state": "running"}]


def test_a_newer_format_is_refused(out: str) -> None:
    STORE.replace(f"{out}/run.json", b'{"format": 99}')
    with pytest.raises(NewerFormat):
        _attempt(out, "a")
