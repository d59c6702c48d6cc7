"""The workers of a run on a Ray cluster: how many there are, the actor that each is, and the nodes on which none can start."""

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

_GROWTH, _MIN_GROWTH = 4, 64  # a cluster that can grow may come to as many times its CPUs, or to as many
_ASK_S, _LONGEST_ASK_S = 1.0, 30.0  # between two questions of a worker that refused: doubled each time
_LOOK_S = 10.0  # that an answer of the roster may take

log = logging.getLogger(__name__)


@contextmanager
def faults_of_ray() -> Iterator[None]:
    """Raise what Ray raises in the body, such as a control plane that is gone for a moment or dead workers, as `RoundFailed`."""
    try:
        yield
    except (RoundFailed, NoWorkerLeft, MaskfleetError):
        raise
    except Exception as error:
        raise RoundFailed(first_line(error)) from error


def first_line(error: Exception) -> str:
    """What a log has room for."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


class Fleet:
    """All workers of an attempt, on the Ray that this process has joined.

    asked: `--workers`, or None for all that the cluster has, and will have. own: this process started it, so it never grows.
    events: are told of nodes on which no worker can start.
    """

    def __init__(self, asked: Workers | None, events: Events, *, own: bool) -> None:
        self._events = events
        self._asked = Workers(_cpus(), _cpus()) if asked is None and own else asked
        self._mine = str(ray.get_runtime_context().get_node_id())
        self._seen = 1  # CPUs that were free, at most: those of a round before are not at once
        here = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "label_selector": {NODE_ID: self._mine}}
        self._roster: Any = ray.remote(Roster).options(**here).remote()
        self._known: dict[str, Refusal] = {}
        self._rounds = 0

    @property
    def refused(self) -> int:
        """Nodes on which no worker can start, as far as it is known."""
        return len(self._known)

    @faults_of_ray()
    def there(self) -> int:
        """Workers that there is room for now, at least 1: CPUs that somebody has, or of nodes that refuse, are not counted."""
        useless = _cpus_of(self._known)
        self._seen = max(1, min(max(self._seen, int(_free_cpus() - useless)), int(_cpus() - useless)))
        return self._seen if self._asked is None else self._asked.within(self._seen)

    def soon(self) -> int:
        """Workers for whom big shards are cut, which costs requests: a few times those that there are, if the pool may grow."""
        seen = _GROWTH * self.there()
        return seen if self._asked is None else self._asked.within(seen)

    @faults_of_ray()
    def may_be(self) -> int:
        """Workers for whom work is made small enough: as many as there can be, or as a cluster is expected to grow to."""
        return max(_GROWTH * _cpus(), _MIN_GROWTH) if self._asked is None else self._asked.max

    def pool(self, spans: int) -> ActorPoolStrategy:
        """From what was asked for at least to what the work can use; begun with what is there."""
        min_level, most = (1, spans) if self._asked is None else (min(self._asked.min, spans), min(self._asked.max, spans))
        begin = min(max(min_level, self.there()), most)
        return ActorPoolStrategy(min_size=min_level, max_size=most, initial_size=begin, max_tasks_in_flight_per_actor=SPANS_AHEAD)

    @faults_of_ray()
    def begin(self, workers: int) -> "Member":
        """A pass that begins with so many; -> what each is given. Raises `NoWorkerLeft`."""
        self.look()
        self._rounds += 1
        self._roster.begin.remote(self._rounds, workers)
        return Member(self._roster, self._rounds, self._mine)

    def end(self) -> None:
        """It is over."""
        self._roster.end.remote()
        self._hear()

    def look(self) -> None:
        """Learn which nodes refused. Raises `NoWorkerLeft` if that leaves none."""
        self._hear()
        if self._known and not _hope(self._roster, list(self._known), self._mine):
            raise NoWorkerLeft(verdict(list(self._known.values())))

    def elsewhere(self) -> dict[str, str] | None:
        """The label selector of workers that have a chance."""
        return elsewhere(self._known)

    def _hear(self) -> None:
        """Each node that refused is named in the log once."""
        if not self._rounds:
            return  # an actor takes a second to start, and it has heard nothing
        try:
            told = ray.get(self._roster.refusals.remote(), timeout=_LOOK_S)
        except RayError as error:  # it is started again, and what is known is known
            log.warning("which nodes refuse could not be asked: %s", type(error).__name__)
            return
        for refusal in told:
            if refusal.node not in self._known:
                self._known[refusal.node] = refusal
                log.warning("%s", refusal)
                self._events.emit(WorkerRetired(refusal.node, str(refusal)))


class Member:
    """What a worker is given of the fleet: whom it tells that it starts, or cannot."""

    def __init__(self, roster: Any, number: int, drivers_node: str) -> None:
        self._roster, self._round, self._drivers_node = roster, number, drivers_node

    def starts(self) -> None:
        """It is ready for spans."""
        self._roster.starts.remote(self._round)

    def refuses(self, error: Exception) -> Refusal:
        """It cannot start: wait until somebody has to say so in a report -> what that says. Raises `error` to leave.

        A worker that was started again leaves at once: two spans wait for it, and go on in another round.
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
    """What the workers of a pool do; it is sent to them once."""

    def begin(self, network: Prepared | None) -> Work:
        """Called in each worker before its first item -> what makes reports of an item, which is text.

        Whatever this raises is of the worker's node: others go on.
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
        except Exception as error:  # noqa: BLE001 - whatever it is, it is of this node, and other nodes go on
            self._refusal = member.refuses(error)
        else:
            member.starts()

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        """A batch of one item -> reports, each a batch of one, as its part is committed."""
        if self._refusal is not None:
            report = PartReport(error=str(self._refusal), error_class=self._refusal.error_class, refused=True)
            yield {"report": [report.to_json()]}
            return
        for text in batch["item"]:
            for report in self._work(str(text)):
                yield {"report": [report.to_json()]}


def _hope(roster: Any, refused: list[str], drivers_node: str) -> bool:
    """Could a worker start on another node? If nobody answers yes: the round fails then, and tells."""
    try:
        waiting = ray.get(roster.waiting.remote(), timeout=_LOOK_S)
    except RayError:
        return True
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return anyone_left(nodes, refused, free_cpus=_free_cpus(), waiting=waiting, mine=drivers_node)


def _free_cpus() -> float:
    """CPUs of the cluster that nobody has."""
    return float(ray.available_resources().get("CPU", 0.0))  # type: ignore[no-untyped-call]


def _cpus_of(nodes: Collection[str]) -> float:
    """CPUs of these nodes, as far as they are alive."""
    alive = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] in nodes] if nodes else []  # type: ignore[no-untyped-call]
    return float(sum(node["Resources"].get("CPU", 0.0) for node in alive))


def _cpus() -> int:
    """CPUs of the cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
