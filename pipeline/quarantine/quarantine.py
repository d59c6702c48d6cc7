"""One image must not end the work on all others: each has a time limit, and a suspect image is judged in an isolated child.

An image is suspect if a worker died with it in hand.
"""

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
    """The quarantine of one worker. folder: a folder of this node, where workers write down which images they have in hand."""

    def __init__(self, folder: Path, network: Prepared, options: LabelOptions, timeout_s: float) -> None:
        self.folder, self._network, self._options, self._timeout_s = folder, network, options, timeout_s
        self.watchdog = Watchdog(timeout_s)
        InFlight(folder, "start").close()  # so a full disk fails here, before a span is lost

    def watch(self, source: str, first: int) -> "Watch":
        """Watch the images of one source, by position, from `first` on."""
        return Watch(self, source, first)

    def in_child(self, data: bytes, name: str) -> Labelled | BadImage:
        """The labels of an image that may have killed a worker, made in an isolated child."""
        return label_in_child(Task(self._network, self._options, self._timeout_s, data, name))


class Watch:
    """Watches the images of one source: those in hand are written down and have a time limit.

    Images that dead workers of this node had in hand are suspect.
    """

    def __init__(self, quarantine: Quarantine, source: str, first: int) -> None:
        self._quarantine = quarantine
        # A file with an image before `first` is for the worker that goes on there: a worker of another span left it.
        left = left_behind(quarantine.folder, source)
        self._left = {path: held for path, held in left if min(held.positions, default=first) >= first}
        # Has a worker died here, or run out of memory? Then this worker does not give up the span if memory runs out again.
        self.was_left = bool(self._left)
        self._in_flight = InFlight(quarantine.folder, source)
        self._verdicts = Verdicts(quarantine.folder / f"{source}.verdicts")

    @contextmanager
    def decoding(self, position: int) -> Iterator[None]:
        """This image is being decoded, in one thread. Beyond the time limit this process ends."""
        with self._in_flight.hold(DECODING, position), self._quarantine.watchdog.limit():
            yield

    @contextmanager
    def labelling(self, position: int) -> Iterator[None]:
        """This image is being labelled, in another thread. Beyond the time limit this process ends."""
        with self._in_flight.hold(LABELLING, position), self._quarantine.watchdog.limit():
            yield

    @contextmanager
    def unpacking(self, position: int) -> Iterator[None]:
        """This row of a Parquet shard is being unpacked, in the thread that decodes. No time limit: it also waits for storage."""
        with self._in_flight.hold(UNPACKING, position):
            yield

    @property
    def unpacks_apart(self) -> bool:
        """Did a worker die, or run out of memory, while it unpacked this source? Then a child process unpacks it."""
        return any(held.unpacking is not None for held in self._left.values())

    def read_apart(self, shard: SourceObject, start: Cursor, options: ReadOptions) -> Iterator[EncodedImage]:
        """The images as from `read_parquet`, unpacked in a child process."""
        return read_apart(shard, start, options)

    def suspect(self, position: int) -> bool:
        """Did a worker die with this image in hand?"""
        return any(position in held.images for held in self._left.values())

    def judge(self, position: int, data: bytes, name: str) -> Labelled | BadImage:
        """The labels of a suspect image, or why it has none. Poison stays known until its part is committed."""
        if (known := self._verdicts.get(position)) is not None:
            return known
        found = self._quarantine.in_child(data, name)
        if isinstance(found, KillsItsProcess | ImageTimeout):
            self._verdicts.add(position, found)
        self._in_flight.let_go(DECODING)  # still written down if this worker ran out of memory
        return found

    def committed(self, stop: int) -> None:
        """Everything before `stop` is committed: no image before it is suspect any more."""
        for path in [path for path, held in self._left.items() if max(held.positions, default=-1) < stop]:
            path.unlink(missing_ok=True)
            del self._left[path]
        if not self._left:
            self._verdicts.clear()

    def close(self) -> None:
        """No image is in hand any more. Suspect images that are not committed stay for the next worker."""
        self._in_flight.close()


class Verdicts:
    """Images that are poison, by position, in a file with one JSON line each.

    So each image is tried once, even if a part has ten of these and the worker dies often.
    """

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
        """Remember the verdict, also for the next worker."""
        self._known[position] = error
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps([position, error.kind, error.message]) + "\n")

    def clear(self) -> None:
        """Forget all verdicts: their images are committed."""
        if self._known:
            self._known.clear()
            self._path.unlink(missing_ok=True)
