"""`SegmentSpan`: one span in, one report per part out. A plain callable, which runs without Ray."""

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

PAUSE_S = 10.0  # a worker whose node lacks something pauses: else it would soon have failed on all spans
TRACE = "MASKFLEET_TRACE"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What every worker is told once.

    patient: if another attempt works on a span, go on with it instead of leaving it to that attempt. plan_format: in runs of
    format 1 some parts have names that hold their number of rows.
    heartbeat_rows: after so many rows of a part in hand a worker reports; equal for all workers of a round.
    engine, labels_version: those of the plan. A worker that has others refuses. engine: as `plan.fingerprint.engine_release`
    gives it; None allows any.
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
        """What the parts of this worker have in common."""
        return PartOptions(
            fingerprint=self.fingerprint, classes=self.labels.classes, part_images=self.part_images,
            confidence_map=self.labels.confidence_map, max_encoded_bytes=self.read.max_encoded_bytes,
        )  # fmt: skip


class SegmentSpan:
    """Labels spans, part by part: read ahead in a thread, label, commit, report.

    Raises if the worker cannot start: a `MaskfleetError` if versions or precision are not those of the run, or if the output is
    out of reach; and errors of the machine, such as `OSError` on a full disk.
    """

    def __init__(self, config: WorkerConfig, network: Prepared) -> None:
        self._config = config
        if config.engine is not None:
            check_worker(config.engine, config.labels_version)
        store = writable_store_for(config.output)
        self._labeller = Labeller(load_engine(network), config.labels)
        load_machine_code()  # now, before the time limit of any image runs
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
        """One report per part, in order. The last report may say why the rest of the span remains.

        Before the report of a part come heartbeats, one after each `heartbeat_rows` rows of the part. They come by count, not by
        time, and also for a part that was there already: if a worker dies, Ray repeats its items and finds them by position.
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
        except Exception as error:  # noqa: BLE001 - one span must not end the others; the driver reports the error
            last = ended_by(error, partial(without_secrets_of, span))
        if last.error_class == Incomplete.__name__:
            time.sleep(PAUSE_S)
        yield last

    def _parts(self, span: Span) -> Iterator[PartReport]:
        """Report the parts that are there, then make the others."""
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
            return True  # whoever made the part saw another source: a later round finds out what remains
        # If another attempt works on this span, the span is left to that attempt: a later round looks again.
        return not self._config.patient and (not committed or self._writer.committed(span.digest, part.stop) is not None)

    def _part(
        self, draft: Draft, first: int, item: Item | None, images: Iterator[Item], watch: Watch
    ) -> Generator[PartReport, None, tuple[Item | None, PartReport, Cursor]]:
        """Label one part and commit it -> the first image of the next part, the report, and where that image lies."""
        before, began, done = self._spent(), time.perf_counter(), 0
        while item is not None and not draft.full and item.encoded.after.index <= draft.limit:
            self._label(draft, item, watch)
            passed = max(done, item.encoded.position - first)  # only the rows before this one, which may be the last
            yield from self._heartbeats(done, passed)
            done = passed
            item = next(images, None)
        packing = time.thread_time()
        footer, data = draft.finish(exhausted=item is None)
        self._trace(footer, draft.inferred)  # before the commit: work counts even if another worker wins the put
        started = time.perf_counter()
        part, committed = self._writer.commit(footer, data)
        self._commit_ms += 1000 * (time.thread_time() - packing)
        yield from self._heartbeats(done, footer.rows - 1)
        spent = {stage: total - before.get(stage, 0.0) for stage, total in self._spent().items()}
        spent["commit"] = 1000 * (time.perf_counter() - started)  # wall time, with the time of the store
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
                os.kill(os.getpid(), signal.SIGKILL)  # the heap may be damaged; another process takes this image as a suspect
                raise
            except BadImage as error:
                found = error
        if isinstance(found, BadImage):
            draft.fail(item.encoded, found)
        else:
            draft.add(item.encoded, found)

    def _heartbeats(self, done: int, rows: int) -> Iterator[PartReport]:
        """One report for each multiple of `heartbeat_rows` after row `done` of a part, up to row `rows`."""
        every = self._config.heartbeat_rows
        for number in range(done // every + 1, rows // every + 1):
            yield PartReport(in_hand=number * every)

    def _spent(self) -> dict[str, float]:
        """CPU milliseconds that this worker has spent so far, by stage."""
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
    """The report for an error that is not a `MaskfleetError`: the node lacks something, or it is a `Bug`.

    hide: takes secrets out of a text.
    """
    if isinstance(error, MemoryError):
        text = f"a worker on {socket.gethostname()} ran out of memory"
    elif is_of_node(error):
        text = f"a worker on {socket.gethostname()} cannot go on: {type(error).__name__}: {error}"
    else:
        return PartReport(error=hide(traceback.format_exc()), error_class=Bug.__name__)
    return PartReport(error=hide(text), error_class=Incomplete.__name__)
