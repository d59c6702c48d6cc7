"""Who waits, who speaks and who leaves, of workers that cannot start; when nobody is left, and what the run then ends with."""

from typing import Any

import pytest

from pipeline.errors import Bug, Incomplete, NotReachable, UsageError
from pipeline.worker import refusals
from pipeline.worker.refusals import Next, Refusal, Roster, anyone_left, elsewhere, verdict


def _refusal(node: str = "a" * 12, error: Exception | None = None) -> Refusal:
    return Refusal.of(error or Incomplete("other versions"), node=node, host="pool-7, 10.0.0.7")


def _node(name: str, cpus: float, *, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": cpus} if cpus else {}}


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (UsageError("no bf16"), "UsageError", "no bf16"),
        (Incomplete("other versions"), "Incomplete", "other versions"),
        (NotReachable("/tmp cannot be made"), "Incomplete", "/tmp cannot be made"),
        (OSError(28, "No space left on device"), "Incomplete", "OSError: [Errno 28] No space left on device"),
        (ImportError("libtbb.so.12"), "Incomplete", "ImportError: libtbb.so.12"),
        (ZeroDivisionError("division by zero"), "Bug", "ZeroDivisionError: division by zero\n"),
    ],
)
def test_what_a_worker_says_names_its_node(error: Exception, kind: str, text: str) -> None:
    refusal = _refusal(error=error)
    assert (refusal.error_class, refusal.error) == (kind, text)
    assert str(refusal) == f"no worker can start on pool-7, 10.0.0.7 (node aaaaaaaa): {text}"


def test_one_that_refuses_waits_as_long_as_another_is_at_work() -> None:
    roster = Roster()
    roster.begin(1, workers=2)
    roster.refuse(1, "worker", _refusal())
    assert roster.next(1, hope=True) == Next.WAIT
    roster.starts(1)
    assert roster.next(1, hope=True) == Next.WAIT
    roster.end()
    assert roster.next(1, hope=True) == Next.LEAVE


def test_where_all_of_a_pass_refuse_they_speak_at_once() -> None:
    roster = Roster()
    roster.begin(1, workers=2)
    roster.refuse(1, "one", _refusal("a"))
    roster.refuse(1, "one", _refusal("a"))  # it asked twice
    assert roster.next(1, hope=True) == Next.WAIT
    roster.refuse(1, "two", _refusal("b"))
    assert roster.next(1, hope=True) == Next.SPEAK
    assert [each.node for each in roster.refusals()] == ["a", "b"]


def test_nobody_is_waited_for_who_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    roster = Roster()
    roster.begin(1, workers=2)
    roster.refuse(1, "one", _refusal())
    monkeypatch.setattr(refusals, "START_S", 0.0)
    assert roster.next(1, hope=True) == Next.SPEAK
    roster.starts(1)
    assert roster.next(1, hope=True) == Next.WAIT


def test_more_that_wait_than_are_at_work_end_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Data lets no pool grow of which more than half is on its way: the next round keeps off their nodes."""
    roster = Roster()
    roster.begin(1, workers=3)
    roster.starts(1)
    roster.refuse(1, "one", _refusal("a"))
    roster.refuse(1, "two", _refusal("b"))
    assert roster.next(1, hope=True) == Next.WAIT
    monkeypatch.setattr(refusals, "START_S", 0.0)
    assert roster.next(1, hope=True) == Next.SPEAK


def test_without_hope_they_speak_though_others_were_at_work() -> None:
    roster = Roster()
    roster.begin(1, workers=2)
    roster.starts(1)
    roster.refuse(1, "one", _refusal())
    assert roster.next(1, hope=False) == Next.SPEAK


def test_a_pass_knows_nothing_of_the_workers_of_another_but_their_nodes() -> None:
    roster = Roster()
    roster.begin(1, workers=1)
    roster.refuse(1, "one", _refusal("a"))
    roster.begin(2, workers=1)
    roster.starts(1)
    roster.refuse(1, "late", _refusal("b"))
    assert roster.waiting() == 0
    assert roster.next(1, hope=True) == Next.LEAVE
    assert roster.next(2, hope=True) == Next.WAIT
    assert [each.node for each in roster.refusals()] == ["a", "b"]


def test_workers_are_kept_off_nodes_that_refused() -> None:
    assert elsewhere([]) is None
    assert elsewhere(["a", "b"]) == {"ray.io/node-id": "!in(a,b)"}


@pytest.mark.parametrize(
    ("nodes", "refused", "free", "waiting", "left"),
    [
        ([_node("head", 0), _node("a", 4)], ["a"], 0, 4, False),
        ([_node("head", 0), _node("a", 4), _node("b", 4)], ["a"], 0, 4, True),  # b is busy: it may become free
        ([_node("head", 0), _node("a", 4), _node("b", 4, alive=False)], ["a"], 0, 4, False),
        ([_node("mine", 1), _node("a", 4)], ["a"], 0, 4, False),  # the driver has its CPU
        ([_node("mine", 1), _node("a", 4)], ["a"], 3, 1, False),  # and 3 of those that refused are free
        ([_node("mine", 1), _node("a", 4)], ["a"], 1, 4, True),
        ([_node("mine", 2), _node("a", 4)], ["a"], 0, 4, True),
        ([_node("mine", 2)], ["mine"], 0, 2, False),
    ],
)
def test_who_is_left(nodes: list[dict[str, Any]], refused: list[str], free: float, waiting: int, left: bool) -> None:
    assert anyone_left(nodes, refused, free_cpus=free, waiting=waiting, mine="mine") is left


@pytest.mark.parametrize(
    ("errors", "kind", "code"),
    [
        ([UsageError("no bf16"), UsageError("no bf16")], UsageError, 2),
        ([UsageError("no bf16"), OSError("full")], Incomplete, 5),
        ([OSError("full")], Incomplete, 5),
        ([ValueError("?")], Bug, 1),
    ],
)
def test_the_end_of_a_run_without_workers(errors: list[Exception], kind: type[Exception], code: int) -> None:
    end = verdict([_refusal(str(number), error) for number, error in enumerate(errors)])
    assert type(end) is kind
    assert end.exit_code == code
    assert ("; other nodes that refuse, too: 1" in str(end)) == (len(errors) > 1)
