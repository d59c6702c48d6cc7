"""One image must not end the work on all others: a time limit for each; what a dead worker had in hand is labelled alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import BadImage, ImageTimeout, KillsItsProcess
from pipeline.labels.labeller import Labelled, LabelOptions
from pipeline.model.engine import Prepared
from pipeline.quarantine.isolated_child import Task, label_in_child
from pipeline.quarantine.journal import DECODING, LABELLING, UNPACKING, InFlight, left_behind
from pipeline.quarantine.unpack_child import read_apart
from pipeline.quarantine.watchdog import Watchdog
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject


class Quarantine:
    """Of one worker. `folder`: of this node, where its workers write down which images they have in hand."""

    def __init__(self, folder: Path, network: Prepared, options: LabelOptions, timeout_s: float) -> None:
        self.folder, self._network, self._options, self._timeout_s = folder, network, options, timeout_s
        self.watchdog = Watchdog(timeout_s)
        InFlight(folder, "start").close()  # a disk that is full says so before a span is lost

    def watch(self, source: str, first: int) -> "Watch":
        """The images of one source, by position, from `first`."""
        return Watch(self, source, first)

    def in_child(self, data: bytes, name: str) -> Labelled | BadImage:
        """The labels of an image that may have killed a worker, made where it can kill nothing."""
        return label_in_child(Task(self._network, self._options, self._timeout_s, data, name))


class Watch:
    """Of one source: what is in hand is written down and limited in time, and what dead workers of this node left is suspect."""

    def __init__(self, quarantine: Quarantine, source: str, first: int) -> None:
        self._quarantine = quarantine
        # What lies before `first` was left by a worker of another stretch, and is for the one that goes on there.
        left = left_behind(quarantine.folder, source)
        self._left = {path: held for path, held in left if min(held.positions, default=first) >= first}
        # A worker died, or ran out of memory, in what lies before us: no other is to leave it for an image like that.
        self.was_left = bool(self._left)
        self._in_flight = InFlight(quarantine.folder, source)
        self._verdicts = Verdicts(quarantine.folder / f"{source}.verdicts")

    @contextmanager
    def decoding(self, position: int) -> Iterator[None]:
        """Of this image, in one thread. Beyond the time limit this process ends."""
        with self._in_flight.hold(DECODING, position), self._quarantine.watchdog.limit():
            yield

    @contextmanager
    def labelling(self, position: int) -> Iterator[None]:
        """The same, in another."""
        with self._in_flight.hold(LABELLING, position), self._quarantine.watchdog.limit():
            yield

    @contextmanager
    def unpacking(self, position: int) -> Iterator[None]:
        """Of this row of a Parquet shard, in the thread that decodes. Waits for storage, too: no time limit."""
        with self._in_flight.hold(UNPACKING, position):
            yield

    @property
    def unpacks_apart(self) -> bool:
        """Did a worker die, or run out of memory, while it unpacked this source?"""
        return any(held.unpacking is not None for held in self._left.values())

    def read_apart(self, shard: SourceObject, start: Cursor, options: ReadOptions) -> Iterator[EncodedImage]:
        """What `read_parquet` yields, unpacked where it can kill nothing."""
        return read_apart(shard, start, options)

    def suspect(self, position: int) -> bool:
        """Did a worker die with this image in hand?"""
        return any(position in held.images for held in self._left.values())

    def judge(self, position: int, data: bytes, name: str) -> Labelled | BadImage:
        """What a suspect is: its labels, or why it has none. What is poison stays known until it is committed."""
        if (known := self._verdicts.get(position)) is not None:
            return known
        found = self._quarantine.in_child(data, name)
        if isinstance(found, KillsItsProcess | ImageTimeout):
            self._verdicts.add(position, found)
        self._in_flight.let_go(DECODING)  # where its own memory ran out it stayed written down
        return found

    def committed(self, stop: int) -> None:
        """Everything before `stop` is committed: what was left behind there is settled."""
        for path in [path for path, held in self._left.items() if max(held.positions, default=-1) < stop]:
            path.unlink(missing_ok=True)
            del self._left[path]
        if not self._left:
            self._verdicts.clear()

    def close(self) -> None:
        """Nothing is in hand any more; what is not settled stays for the next worker."""
        self._in_flight.close()


class Verdicts:
    """Poison by position, one JSON line each: a part with ten such images must not try all of them ten times."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[int, BadImage] = {}
        kinds = {kind.__name__: kind for kind in (KillsItsProcess, ImageTimeout)}
        with suppress(FileNotFoundError):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # the last line of a worker that died while it wrote
                    position, kind, message = json.loads(line)
                    self._known[position] = kinds[kind](message)

    def get(self, position: int) -> BadImage | None:
        """Why the image at this position is poison, if it is known to be."""
        return self._known.get(position)

    def add(self, position: int, error: BadImage) -> None:
        """Remember it for the worker after this one, too."""
        self._known[position] = error
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps([position, error.kind, error.message]) + "\n")

    def clear(self) -> None:
        """All of it is committed."""
        if self._known:
            self._known.clear()
            self._path.unlink(missing_ok=True)
