"""The sums of a run as one attempt knows them: from the checkpoint, from the footers of other parts, and from reports."""

import logging
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress

from pipeline.errors import Damaged, MaskfleetError, ObjectChanged, ObjectMissing
from pipeline.output.parts import PartTable, list_parts
from pipeline.output.run_view import list_planned, read_footers
from pipeline.storage import WritableStore, join
from pipeline.sums.checkpoint import Checkpoint
from pipeline.sums.derived import FailureFiles, class_stats_bytes, read_totals, write_derived
from pipeline.sums.totals import Totals

SAVE_S = 300.0  # between checkpoints; after a kill the footers of newer parts are read again, a few seconds of requests

log = logging.getLogger(__name__)


class Sums:
    """The sums of a run (`totals`). They begin with the checkpoint, and are saved to it."""

    def __init__(self, store: WritableStore, out: str, fingerprint: str, classes: tuple[str, ...]) -> None:
        self.totals = Totals(classes)
        self._store, self._out, self._fingerprint = store, out, fingerprint
        self._checkpoint = Checkpoint(store, out, fingerprint, classes)
        self._threads: list[threading.Thread] = []

    def begin(self) -> PartTable:
        """Begin with the sums of the checkpoint, if it is proven -> all parts, also those of no planned source."""
        found, listed = self._checkpoint.load(self._list(), self._list)
        self.totals.become(found or Totals(self.totals.classes))
        return listed

    def _list(self) -> PartTable:
        return list_parts(self._store, self._out)

    def read(self, listed: PartTable, stop: threading.Event | None = None) -> None:
        """Read the footers of parts that are not in the sums, until `stop` is set. Raises like `read_totals`."""
        read_totals(
            self._store, self._out, listed, self.totals, self._fingerprint, FailureFiles(self._store, self._out).fill, stop
        )

    def forget(self, gone: PartTable) -> None:
        """Take parts out of the sums and the checkpoint, by their footers, before these parts are removed."""
        counted = gone.parts(self.totals.has(gone.part_keys))
        forgotten = 0
        try:
            for name, footer in read_footers(self._store, self._out, counted):
                forgotten += self.totals.remove(name, footer)
        except (Damaged, ObjectMissing, ObjectChanged):  # nobody can say what such parts added to the sums
            self.totals.clear()
        if forgotten and len(self.totals.parts):
            self._checkpoint.save(self._store, self.totals, smaller=True)

    def are_written(self, listed: PartTable, min_level: int) -> bool:
        """Do the sums, which come from the checkpoint, and `class_stats.parquet` hold exactly these parts?"""
        if not self.totals.is_exactly(listed.part_keys):
            return False
        with suppress(ObjectMissing):
            wanted = class_stats_bytes(self.totals.class_stats(min_level))
            return self._store.read(join(self._out, "class_stats.parquet")) == wanted
        return False

    @contextmanager
    def kept(self, listed: PartTable, sources: Container[str]) -> Iterator[None]:
        """While the body labels, read missing footers into the sums and save the sums now and then, in background threads.

        listed: parts of these sources, listed just now.
        """
        stop = threading.Event()

        def count() -> None:
            try:
                self.read(listed, stop)
            except Exception as error:  # noqa: BLE001 - footers that cannot be read now are read, and reported, at the end
                log.info("what is there is counted at the end: %s", error)
            if not stop.is_set():
                self._checkpoint.save(self._store, self.totals)

        def save() -> None:
            removal = ""
            while not stop.wait(SAVE_S):
                self._checkpoint.save(self._store, self.totals)
                before, removal = removal, self._checkpoint.newer_removal
                if self.totals.is_torn or (removal and removal == before):  # seen twice: the removed parts are gone by now
                    with suppress(MaskfleetError):
                        self._follow(removal, sources, stop)

        self._threads = [threading.Thread(target=count, name="count", daemon=True)]
        self._threads.append(threading.Thread(target=save, name="checkpoint", daemon=True))
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()

    def _follow(self, removal: str, sources: Container[str], stop: threading.Event) -> None:
        """Make the sums those of parts that are there, and save them: another attempt removed parts, or the sums are torn."""

        def list_again() -> PartTable:
            return list_planned(self._store, self._out, sources)

        before = self.totals.sums()  # a copy: parts that are added later are newer than the removal, and perhaps not listed
        listed = list_again()
        if before.is_within(listed.part_keys) and not before.torn:
            self._checkpoint.follow(removal)
        else:
            found, listed = self._checkpoint.load(listed, list_again)
            self.totals.become(found or Totals(self.totals.classes))
            self.read(listed, stop)
        self._checkpoint.save(self._store, self.totals)

    def save(self) -> None:
        """Save the checkpoint before an early end."""
        self._checkpoint.save(self._store, self.totals)

    def close(
        self,
        sources: Container[str],
        min_level: int,
        listed: PartTable | None = None,
        has_remaining: Callable[[PartTable], bool] | None = None,
    ) -> PartTable:
        """Write the derived files and the checkpoint -> the parts that are in them. Arguments as in `write_derived`."""
        for thread in self._threads:
            thread.join()
        listed = write_derived(
            self._store, self._out, sources, self.totals, self._fingerprint, min_level, listed, self._checkpoint, has_remaining
        )
        self._checkpoint.save(self._store, self.totals, last=True)
        return listed
