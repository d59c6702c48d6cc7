"""Nodes on which no worker can start: how they are reported, how later rounds avoid them, and when no node is left.

Ray is not imported here. Ray Data would start a dying worker again and again, and would give all spans to a worker that refuses
them. So a worker that cannot start reports this and does not return from its constructor: Ray Data takes it for a worker that is
still starting, and sends no spans. Later rounds keep off its node. If fewer workers are at work than wait in this way, the
waiting worker speaks: it returns, takes a span, and answers that the round is over.
"""

import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline.errors import Bug, Incomplete, MaskfleetError, UsageError

NODE_ID = "ray.io/node-id"  # a label that Ray gives every node
START_S = 30.0  # so long other workers have time to start before workers that refuse may end the round
_SHOWN_ID = 8  # characters of a node's id that are shown, as in Ray's own lists
_FATAL = {kind.__name__: kind for kind in (Bug, UsageError)}  # running the same command again does not help


def is_of_node(error: Exception) -> bool:
    """Does this machine lack something: disk, files, threads, processes, memory, a library?"""
    no_thread = isinstance(error, RuntimeError) and str(error) == "can't start new thread"  # as CPython says it
    return no_thread or isinstance(error, OSError | ImportError | MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a worker reports if it cannot start on its node. host: name and address. error_class: from `pipeline.errors`."""

    node: str
    host: str
    error: str
    error_class: str

    @classmethod
    def of(cls, error: Exception, *, node: str, host: str) -> "Refusal":
        """A refusal for this reason. An error that no code raises on purpose becomes a `Bug` with its traceback."""
        if isinstance(error, MaskfleetError):
            kind = UsageError if isinstance(error, UsageError) else Bug if isinstance(error, Bug) else Incomplete
            return cls(node=node, host=host, error=str(error), error_class=kind.__name__)
        if is_of_node(error):
            text = f"{type(error).__name__}: {error}"
            return cls(node=node, host=host, error=text, error_class=Incomplete.__name__)
        text = "".join(traceback.format_exception(error))
        return cls(node=node, host=host, error=text, error_class=Bug.__name__)

    def __str__(self) -> str:
        """One line for the log; several lines for a `Bug`."""
        return f"no worker can start on {self.host} (node {self.node[:_SHOWN_ID]}): {self.error}"


class Next(StrEnum):
    """What a worker that refused does next."""

    WAIT = "wait"
    SPEAK = "speak"
    LEAVE = "leave"


class Roster:
    """Which workers are at work in this round, and which nodes refused in any round. An actor that all workers can call."""

    def __init__(self) -> None:
        self._by_node: dict[str, Refusal] = {}
        self._round, self._workers, self._began = 0, 0, 0.0
        self._fit = 0
        self._refused: set[str] = set()

    def begin(self, number: int, workers: int) -> None:
        """Round `number` (from 1) begins with so many workers."""
        self._round, self._workers, self._began = number, workers, time.monotonic()
        self._fit, self._refused = 0, set()

    def end(self) -> None:
        """The round is over: workers that wait for its end leave."""
        self._round = 0

    def starts(self, number: int) -> None:
        """A worker of this round is ready for spans."""
        self._fit += number == self._round

    def refuse(self, number: int, worker: str, refusal: Refusal) -> None:
        """A worker of this round cannot start. For each node the first refusal is kept."""
        self._by_node.setdefault(refusal.node, refusal)
        if number == self._round:
            self._refused.add(worker)

    def refusals(self) -> list[Refusal]:
        """The first refusal of each node, in the order in which they came."""
        return list(self._by_node.values())

    def waiting(self) -> int:
        """How many workers of this round cannot start."""
        return len(self._refused)

    def next(self, number: int, *, hope: bool) -> Next:
        """What a worker that refused does now. hope: are there nodes that have not refused?"""
        if number != self._round:
            return Next.LEAVE
        late = time.monotonic() - self._began > START_S
        nobody = not self._fit and len(self._refused) >= self._workers
        # Ray Data does not grow a pool if more than half of its workers wait: a new round keeps off their nodes, and uses nodes
        # that have joined.
        outnumbered = late and len(self._refused) > self._fit
        return Next.SPEAK if nobody or outnumbered or not hope else Next.WAIT


def elsewhere(refused: Collection[str]) -> dict[str, str] | None:
    """The label selector that keeps workers off these nodes."""
    return {NODE_ID: f"!in({','.join(refused)})"} if refused else None


def anyone_left(
    nodes: Sequence[Mapping[str, Any]], refused: Collection[str], *, free_cpus: float, waiting: int, mine: str
) -> bool:
    """Could a worker start on a node that has not refused, now or when other workers leave this node?

    nodes: as `ray.nodes()` lists them. free_cpus: of the cluster. waiting: workers that hold a CPU of a node that refused.
    mine: the driver's node. The driver holds the CPU of this node if the node has only one, and if no CPU is free on nodes that
    have not refused.
    """
    cpus = {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]}
    hopeful = {node for node, count in cpus.items() if count >= 1 and node not in refused}
    free_elsewhere = free_cpus - max(0.0, sum(cpus.get(node, 0.0) for node in refused) - waiting)
    if cpus.get(mine, 0.0) < 2 and free_elsewhere < 1:
        hopeful.discard(mine)
    return bool(hopeful)


def verdict(refusals: Sequence[Refusal]) -> MaskfleetError:
    """The error of a run in which no node is left: the error class of all refusals if they agree, else `Incomplete`."""
    kinds = {refusal.error_class for refusal in refusals}
    kind = _FATAL.get(kinds.pop(), Incomplete) if len(kinds) == 1 else Incomplete
    more = f"; other nodes that refuse, too: {len(refusals) - 1}" if len(refusals) > 1 else ""
    return kind(f"{refusals[0]}{more}")
