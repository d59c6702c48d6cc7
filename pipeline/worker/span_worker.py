"""`SegmentSpan`: one span in, one report a committed part out. A plain callable; Ray is not needed to run it."""

import hashlib
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

from pipeline.cache import scratch_folder
from pipeline.errors import BadImage, Bug, Incomplete, MaskfleetError
from pipeline.labels.labeller import Labeller, LabelOptions, NetworkGotNoMemory, Resized, load_machine_code
from pipeline.model.engine import Prepared
from pipeline.model.loading import load_engine
from pipeline.output.footer import PartFooter, read_footer
from pipeline.output.part_writer import Draft, PartOptions, PartWriter
from pipeline.output.parts import PartName
from pipeline.output.reports import PartReport
from pipeline.output.span import Span, without_secrets_of
from pipeline.plan.fingerprint import LABELS_VERSION, SETTINGS_FORMAT, check_worker
from pipeline.quarantine.quarantine import Quarantine, Watch
from pipeline.shards.base import Cursor, ReadOptions
from pipeline.storage import writable_store_for
from pipeline.storage.retry import retries
from pipeline.worker.cutting import beginning
from pipeline.worker.reading import Item, SpanReader
from pipeline.worker.refusals import is_of_node

PAUSE_S = 10.0  # of a worker whose node lacks something: else it would soon have had the spans of all others
TRACE = "MASKFLEET_TRACE"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What every worker is told once.

    patient: go on beside another attempt instead of leaving it the span. plan_format: in runs of format 1 there are parts
    whose names hold their rows.
    heartbeat_rows: of a part in hand, after which it says so; the same for all workers of a round.
    engine, labels_version: of the run, where the driver made its plan; a worker of another refuses. engine as
    `identity.engine_release` gives it, None: any.
    """

    output: str
    fingerprint: str
    part_images: int
    read: ReadOptions
    labels: LabelOptions
    patient: bool = False
    plan_format: int = SETTINGS_FORMAT
    image_timeout_s: float = 120.0
    heartbeat_rows: int = 128
    engine: str | None = None
    labels_version: int = LABELS_VERSION

    @property
    def part(self) -> PartOptions:
        """What its parts have in common."""
        return PartOptions(
            fingerprint=self.fingerprint, classes=self.labels.classes, part_images=self.part_images,
            confidence_map=self.labels.confidence_map, max_encoded_bytes=self.read.max_encoded_bytes,
        )  # fmt: skip


class SegmentSpan:
    """Labels spans, part by part: read ahead in a thread, label, commit, report.

    Raises if it cannot start: a `MaskfleetError` for versions or a precision that are not those of the run, or an output out of
    reach, and what the machine itself raises, such as `OSError` on a full disk.
    """

    def __init__(self, config: WorkerConfig, network: Prepared) -> None:
        self._config = config
        if config.engine is not None:
            check_worker(config.engine, config.labels_version)
        store = writable_store_for(config.output)
        self._labeller = Labeller(load_engine(network), config.labels)
        load_machine_code()  # here, as no image's time limit counts yet
        output = hashlib.sha256(f"{config.output} {config.fingerprint}".encode()).hexdigest()[:24]
        self._quarantine = Quarantine(scratch_folder() / "begun" / output, network, config.labels, config.image_timeout_s)
        self._reader = SpanReader(config.output, config.read, self._labeller)
        self._store, self._retries, self._commit_ms = store, retries(), 0.0
        engine = self._labeller.engine
        versions = {
            "engine": engine.version, "labels": str(LABELS_VERSION), "instruction_set": engine.instruction_set,
            "pillow": version("pillow"), "pyarrow": version("pyarrow"),
        }  # fmt: skip
        self._writer = PartWriter(store, config.output, config.part, versions, plan_format=config.plan_format)

    def __call__(self, span: Span) -> Iterator[PartReport]:
        """One report per part, in order; the last may say why the rest of the span remains.

        Before the report of a part come those that say how much of the part is done, after each `heartbeat_rows`: by count, not
        by time, and of a part that was there too, as Ray repeats what a dead worker yielded by position.
        """
        for report in self._reports(span):
            asked_again = retries() - self._retries
            self._retries += asked_again
            yield replace(report, retries=dict(asked_again))

    def _reports(self, span: Span) -> Iterator[PartReport]:
        try:
            yield from self._parts(span)
            return
        except MaskfleetError as error:
            last = PartReport(error=str(error), error_class=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - one span must not end the others; the driver reports it and exits with 1
            last = ended_by(error, partial(without_secrets_of, span))
        if last.error_class == Incomplete.__name__:
            time.sleep(PAUSE_S)
        yield last

    def _parts(self, span: Span) -> Iterator[PartReport]:
        """Parts that are there, then parts to make."""
        cursor = beginning(span, self._config.output)
        while (there := self._writer.committed(span.digest, cursor.index)) is not None:
            yield from self._heartbeats(0, there.rows - 1)
            yield PartReport(part=there)
            if there.last or there.stop == span.stop:
                return
            cursor = read_footer(self._store, self._config.output, there).after
        with (
            closing(self._quarantine.watch(span.digest, cursor.index)) as watch,
            closing(self._reader.ahead(span, cursor, watch)) as images,
        ):
            item, parts = next(images, None), 0
            while True:
                draft = self._writer.begin(span, cursor.index, cursor)
                item, report, cursor = yield from self._part(draft, cursor.index, item, images, watch)
                watch.committed(cursor.index)
                yield report
                parts += 1
                assert report.part is not None
                if parts == span.max_parts or self._ends(span, report.part, committed=report.committed):
                    return

    def _ends(self, span: Span, part: PartName, *, committed: bool) -> bool:
        """Is this part the last one of the span for this worker?"""
        if part.last or part.stop == span.stop:
            return True
        if not committed and self._writer.committed(span.digest, part.first) != part:
            return True  # who made it saw the source otherwise: what remains of it is for a later round to say
        # If another attempt is at work right here, the span is left to it: a later round looks again.
        return not self._config.patient and (not committed or self._writer.committed(span.digest, part.stop) is not None)

    def _part(
        self, draft: Draft, first: int, item: Item | None, images: Iterator[Item], watch: Watch
    ) -> Generator[PartReport, None, tuple[Item | None, PartReport, Cursor]]:
        """Label one part and commit it -> the first image of the next part, the report, and where that image lies."""
        before, began, done = self._spent(), time.perf_counter(), 0
        while item is not None and not draft.full and item.encoded.after.index <= draft.limit:
            self._label(draft, item, watch)
            passed = max(done, item.encoded.position - first)  # the rows before this one, which may be the last
            yield from self._heartbeats(done, passed)
            done = passed
            item = next(images, None)
        packing = time.thread_time()
        footer, data = draft.finish(exhausted=item is None)
        self._trace(footer, draft.inferred)  # before the commit: a put that is lost was work all the same
        started = time.perf_counter()
        part, committed = self._writer.commit(footer, data)
        self._commit_ms += 1000 * (time.thread_time() - packing)
        yield from self._heartbeats(done, footer.rows - 1)
        spent = {stage: total - before.get(stage, 0.0) for stage, total in self._spent().items()}
        spent["commit"] = 1000 * (time.perf_counter() - started)  # wall time: the store's, too
        report = PartReport(
            part=part, footer=footer if committed else None, committed=committed, bytes=draft.bytes, inferred=draft.inferred,
            seconds=time.perf_counter() - began, milliseconds=spent,
        )  # fmt: skip
        return item, report, footer.after

    def _label(self, draft: Draft, item: Item, watch: Watch) -> None:
        found = item.found
        if isinstance(found, Resized):
            draft.inferred += 1
            try:
                with watch.labelling(item.encoded.position):
                    found = self._labeller.label(found)
            except NetworkGotNoMemory:
                os.kill(os.getpid(), signal.SIGKILL)  # its heap may be damaged: this image is suspect, for another process
                raise
            except BadImage as error:
                found = error
        if isinstance(found, BadImage):
            draft.fail(item.encoded, found)
        else:
            draft.add(item.encoded, found)

    def _heartbeats(self, done: int, rows: int) -> Iterator[PartReport]:
        """One for each `heartbeat_rows` that were passed between so many rows of a part and so many."""
        every = self._config.heartbeat_rows
        for number in range(done // every + 1, rows // every + 1):
            yield PartReport(in_hand=number * every)

    def _spent(self) -> dict[str, float]:
        """CPU milliseconds of this worker so far, by stage."""
        return self._labeller.milliseconds | {"read": self._reader.cpu_ms, "commit": self._commit_ms}

    def _trace(self, footer: PartFooter, inferred: int) -> None:
        if path := os.environ.get(TRACE):
            line = {
                "shard": footer.source["uri"],
                "first": footer.first,
                "rows": footer.rows,
                "inferred": inferred,
                "pid": os.getpid(),
                "unix_s": time.time(),
                "cpu_s": time.process_time(),
                "milliseconds": self._spent(),
            }
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def ended_by(error: Exception, hide: Callable[[str], str] = str) -> PartReport:
    """What is no error of ours: this node lacks something, or it is a `Bug`. hide: takes secrets out of a text."""
    if isinstance(error, MemoryError):
        text = f"a worker on {socket.gethostname()} ran out of memory"
    elif is_of_node(error):
        text = f"a worker on {socket.gethostname()} cannot go on: {type(error).__name__}: {error}"
    else:
        return PartReport(error=hide(traceback.format_exc()), error_class=Bug.__name__)
    return PartReport(error=hide(text), error_class=Incomplete.__name__)
