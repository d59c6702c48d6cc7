"""What workers report to the driver, and the events of a run for its listeners."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline import errors
from pipeline.errors import Bug, Damaged, MaskfleetError, UsageError
from pipeline.output.footer import Failure, PartFooter
from pipeline.output.parts import PartName


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What a worker reports: a part that is there, a part in hand, or (`error`) a span that it could not finish.

    part: name, with the size and the version of its file, as listings name them.
    in_hand: rows of the part in hand that are done. Such a report is a sign of progress, and says nothing else.
    inferred: images that went through the network for the part, also if another worker committed the part first.
    committed: did this worker write the part? If not, the part was there already. footer: of a part that this worker wrote.
    bytes: of the encoded images. seconds: from the first image to the commit.
    milliseconds: by stage, summed over the images. retries: repeated requests to stores since the last report, by cause.
    refused: this worker cannot start, and its round must end.
    result: of the function that `driver.ray_data.map_parts` called with the part; a value that JSON can hold.
    """

    part: PartName | None = None
    in_hand: int = 0
    bytes: int = 0
    inferred: int = 0
    committed: bool = False
    footer: PartFooter | None = None
    seconds: float = 0.0
    error: str | None = None
    error_class: str | None = None
    refused: bool = False
    result: Any = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows the part has."""
        return 0 if self.part is None else self.part.rows

    @property
    def fatal(self) -> MaskfleetError | None:
        """The error, if another try would fail in the same way; else None."""
        kind = getattr(errors, self.error_class or "", None)
        found = [fatal for fatal in (Bug, UsageError, Damaged) if isinstance(kind, type) and issubclass(kind, fatal)]
        return found[0](self.error or "") if found else None

    def to_json(self) -> str:
        """The report as JSON, for the way through Ray."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["part"] = None if self.part is None else asdict(self.part)
        values["footer"] = None if self.footer is None else self.footer.to_dict()
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "PartReport":
        """Read a report that `to_json` wrote."""
        values = json.loads(text)
        values["part"] = None if values["part"] is None else PartName(**values["part"])
        values["footer"] = None if values["footer"] is None else PartFooter.from_dict(values["footer"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class PartCommitted:
    """A worker of this attempt has committed a part. report: the worker's whole report of the part."""

    part: PartName
    footer: PartFooter
    report: PartReport


@dataclass(frozen=True, slots=True)
class ImageFailed:
    """An image of a committed part has no labels."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Retried:
    """Requests to stores were repeated. what: the cause."""

    what: str
    times: int


@dataclass(frozen=True, slots=True)
class WorkerRetired:
    """No worker can start on this node. reason: one line."""

    node: str
    reason: str


Event = PartReport | PartCommitted | ImageFailed | Retried | WorkerRetired
Listener = Callable[[Event], None]


class Events:
    """Tells all listeners what happens, in the order in which they were added.

    Listeners must not raise: some events are emitted inside calls of Ray.
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every event from now on, in the thread of the driver."""
        self._listeners.append(listener)

    def emit(self, event: Event) -> None:
        """Tell all listeners."""
        for listener in self._listeners:
            listener(event)

    def report(self, report: PartReport) -> None:
        """Emit the events of a report that came in."""
        for event in events_of(report):
            self.emit(event)


def events_of(report: PartReport) -> Iterator[Event]:
    """The retries of a report, its part if this worker committed it, the failed images of this part; last the report itself."""
    for what, times in report.retries.items():
        yield Retried(what, times)
    if report.committed and report.part is not None and report.footer is not None:
        yield PartCommitted(report.part, report.footer, report)
        for failure in report.footer.failures:
            yield ImageFailed(failure)
    yield report
