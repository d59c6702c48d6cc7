"""The workers of a run on a Ray cluster: their number, the actor that each worker is, and nodes on which none can start."""

import logging
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipeline.config import Workers
from pipeline.driver.rounds import NoWorkerLeft, RoundFailed
from pipeline.errors import MaskfleetError
from pipeline.memory import bound_malloc
from pipeline.model.engine import Prepared
from pipeline.output.remaining import SPANS_AHEAD
from pipeline.output.reports import Events, PartReport, WorkerRetired
from pipeline.worker.process import exit_without_destructors
from pipeline.worker.refusals import NODE_ID, Next, Refusal, Roster, anyone_left, elsewhere, verdict

_GROWTH, _MIN_GROWTH = 4, 64  # a cluster may grow to 4 times its CPUs, or to 64 CPUs if these are more
_ASK_S, _LONGEST_ASK_S = 1.0, 30.0  # pause of a worker that refused before it asks again; the pause doubles each time
_LOOK_S = 10.0  # an answer of the roster may take so long

log = logging.getLogger(__name__)


@contextmanager
def faults_of_ray() -> Iterator[None]:
    """Raise errors of Ray in the body as `RoundFailed`, for example a control plane that is gone for a moment, dead workers."""
    try:
        yield
    except (RoundFailed, NoWorkerLeft, MaskfleetError):
        raise
    except Exception as error:
        raise RoundFailed(first_line(error)) from error


def first_line(error: Exception) -> str:
    """The class and the first line of an error, short enough for a log."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


class Fleet:
    """All workers of an attempt, on the Ray that this process has joined.

    asked: `--workers`; None: as many as the cluster has CPUs, now and later. own: did this process start Ray? Such a Ray never
    grows. events: are told of nodes on which no worker can start.
    """

    def __init__(self, asked: Workers | None, events: Events, *, own: bool) -> None:
        self._events = events
        self._asked = Workers(_cpus(), _cpus()) if asked is None and own else asked
        self._mine = str(ray.get_runtime_context().get_node_id())
        self._seen = 1  # the most CPUs that were free so far: right after a round its CPUs are not free yet
        here = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "label_selector": {NODE_ID: self._mine}}
        self._roster: Any = ray.remote(Roster).options(**here).remote()
        self._known: dict[str, Refusal] = {}
        self._rounds = 0

    @property
    def refused(self) -> int:
        """How many nodes are known on which no worker can start."""
        return len(self._known)

    @faults_of_ray()
    def there(self) -> int:
        """How many workers there is room for now, at least 1. CPUs in use and CPUs of nodes that refuse do not count."""
        useless = _cpus_of(self._known)
        self._seen = max(1, min(max(self._seen, int(_free_cpus() - useless)), int(_cpus() - useless)))
        return self._seen if self._asked is None else self._asked.within(self._seen)

    def soon(self) -> int:
        """For how many workers big shards are cut: 4 times those there are, if the pool may grow. Cutting costs requests."""
        seen = _GROWTH * self.there()
        return seen if self._asked is None else self._asked.within(seen)

    @faults_of_ray()
    def may_be(self) -> int:
        """For how many workers spans are made small enough: the most that there can be, or that a cluster may grow to."""
        return max(_GROWTH * _cpus(), _MIN_GROWTH) if self._asked is None else self._asked.max

    def pool(self, spans: int) -> ActorPoolStrategy:
        """The actor pool. It begins with the workers that there is room for now, and grows to what the work can use.

        Bounds of `--workers` hold. spans: how many workers the work can use.
        """
        min_level, most = (1, spans) if self._asked is None else (min(self._asked.min, spans), min(self._asked.max, spans))
        begin = min(max(min_level, self.there()), most)
        return ActorPoolStrategy(min_size=min_level, max_size=most, initial_size=begin, max_tasks_in_flight_per_actor=SPANS_AHEAD)

    @faults_of_ray()
    def begin(self, workers: int) -> "Member":
        """Begin a round with so many workers -> the `Member` that each worker gets. Raises `NoWorkerLeft`."""
        self.look()
        self._rounds += 1
        self._roster.begin.remote(self._rounds, workers)
        return Member(self._roster, self._rounds, self._mine)

    def end(self) -> None:
        """End the round."""
        self._roster.end.remote()
        self._hear()

    def look(self) -> None:
        """Learn which nodes refused. Raises `NoWorkerLeft` if no node is left."""
        self._hear()
        if self._known and not _hope(self._roster, list(self._known), self._mine):
            raise NoWorkerLeft(verdict(list(self._known.values())))

    def elsewhere(self) -> dict[str, str] | None:
        """The label selector that keeps workers off nodes that refused; None if no node did."""
        return elsewhere(self._known)

    def _hear(self) -> None:
        """Ask the roster for refusals. Each node that refused is logged once."""
        if not self._rounds:
            return  # the roster takes a second to start, and has heard nothing before the first round
        try:
            told = ray.get(self._roster.refusals.remote(), timeout=_LOOK_S)
        except RayError as error:  # Ray starts the roster again; refusals that are known here stay known
            log.warning("which nodes refuse could not be asked: %s", type(error).__name__)
            return
        for refusal in told:
            if refusal.node not in self._known:
                self._known[refusal.node] = refusal
                log.warning("%s", refusal)
                self._events.emit(WorkerRetired(refusal.node, str(refusal)))


class Member:
    """A worker's side of the fleet: the worker reports here that it starts, or that it cannot."""

    def __init__(self, roster: Any, number: int, drivers_node: str) -> None:
        self._roster, self._round, self._drivers_node = roster, number, drivers_node

    def starts(self) -> None:
        """Report that the worker is ready for spans."""
        self._roster.starts.remote(self._round)

    def refuses(self, error: Exception) -> Refusal:
        """Report that the worker cannot start; wait until it has to end the round -> the refusal. Raises `error` to leave.

        A worker that Ray started again leaves at once: two spans wait for it, and are labelled in another round.
        """
        context = ray.get_runtime_context()
        host = f"{socket.gethostname()}, {ray.util.get_node_ip_address()}"  # type: ignore[no-untyped-call]
        refusal = Refusal.of(error, node=str(context.get_node_id()), host=host)
        ray.get(self._roster.refuse.remote(self._round, str(context.get_actor_id()), refusal))
        pause_s = _ASK_S
        while not context.was_current_actor_reconstructed:
            nodes = [each.node for each in ray.get(self._roster.refusals.remote())]
            hope = _hope(self._roster, nodes, self._drivers_node)
            what = ray.get(self._roster.next.remote(self._round, hope=hope))
            if what == Next.SPEAK:
                return refusal
            if what == Next.LEAVE:
                break
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_ASK_S)
        raise error


Work = Callable[[str], Iterator[PartReport]]


class Task(Protocol):
    """What the workers of a pool do. The task is sent to each worker once."""

    def begin(self, network: Prepared | None) -> Work:
        """Called in each worker before its first item -> a function that makes reports from an item (text).

        An error here counts as one of the worker's node: workers on other nodes go on.
        """
        ...


class Worker:
    """Ray Data's actor: batches of one item in, batches of one report out, as JSON both ways."""

    def __init__(self, task: Task, shared: list["ray.ObjectRef[Prepared]"], member: Member) -> None:
        bound_malloc()
        exit_without_destructors()
        network = ray.get(shared[0]) if shared else None
        self._refusal: Refusal | None = None
        try:
            self._work = task.begin(network)
        except Exception as error:  # noqa: BLE001 - any error counts as one of this node; other nodes go on
            self._refusal = member.refuses(error)
        else:
            member.starts()

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        """A batch of one item -> reports as they come, each a batch of one."""
        if self._refusal is not None:
            report = PartReport(error=str(self._refusal), error_class=self._refusal.error_class, refused=True)
            yield {"report": [report.to_json()]}
            return
        for text in batch["item"]:
            for report in self._work(str(text)):
                yield {"report": [report.to_json()]}


def _hope(roster: Any, refused: list[str], drivers_node: str) -> bool:
    """Could a worker start on another node? True if the roster does not answer: the round then fails and gives the reason."""
    try:
        waiting = ray.get(roster.waiting.remote(), timeout=_LOOK_S)
    except RayError:
        return True
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return anyone_left(nodes, refused, free_cpus=_free_cpus(), waiting=waiting, mine=drivers_node)


def _free_cpus() -> float:
    """How many CPUs of the cluster are free."""
    return float(ray.available_resources().get("CPU", 0.0))  # type: ignore[no-untyped-call]


def _cpus_of(nodes: Collection[str]) -> float:
    """How many CPUs these nodes have. Dead nodes do not count."""
    alive = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] in nodes] if nodes else []  # type: ignore[no-untyped-call]
    return float(sum(node["Resources"].get("CPU", 0.0) for node in alive))


def _cpus() -> int:
    """How many CPUs the cluster has, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
