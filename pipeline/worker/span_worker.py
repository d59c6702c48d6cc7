"""`SegmentSpan`: one span in, one report a committed part out. A plain callable; Ray is not needed to run it."""

import hashlib
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

from pipeline.cache import scratch_folder
from pipeline.errors import BadImage, Bug, HostUnreachable, Incomplete, MaskfleetError, ObjectMissing, StorageError
from pipeline.labels.labeller import Labelled, Labeller, LabelOptions, NetworkGotNoMemory, Resized, load_machine_code
from pipeline.model.engine import Prepared
from pipeline.model.loading import load_engine
from pipeline.output.footer import PartFooter, failures_bytes, read_footer
from pipeline.output.part_writer import Draft, PartOptions
from pipeline.output.parts import PartName, part_key
from pipeline.output.presigned import without_secrets_of
from pipeline.output.span import PartReport, Span
from pipeline.plan.fingerprint import LABELS_VERSION, SETTINGS_FORMAT, check_worker
from pipeline.plan.plan import read_plan_rows
from pipeline.quarantine.quarantine import Quarantine, Watch
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.parquet import read_parquet
from pipeline.shards.single import read_images
from pipeline.shards.tar import read_tar
from pipeline.shards.truncated import to_the_stop, truncation
from pipeline.storage import join, store_for, writable_store_for
from pipeline.storage.answers import FINAL, Answers
from pipeline.storage.retry import retries
from pipeline.worker.beside import Beside
from pipeline.worker.cutting import beginning
from pipeline.worker.prefetch import ReadAhead
from pipeline.worker.refusals import is_of_node

IMAGES_AHEAD = 4
WAITING_BYTES = 112 << 20  # of those: see `ENCODED_AHEAD_BYTES`
PAUSE_S = 10.0  # of a worker whose node lacks something: else it would soon have had the spans of all others
OLD_NAMES_S = 60.0  # a folder of a million parts takes a second to list; only an older version adds to names of format 1
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


@dataclass(frozen=True, slots=True)
class _Item:
    """An image on its way: to the network, resized; or labelled already, by itself; or failed."""

    encoded: EncodedImage
    found: Resized | Labelled | BadImage

    def size(self) -> int:
        """Bytes that it keeps in memory."""
        if isinstance(self.found, Resized):
            return self.found.pixels_HWC.nbytes
        if isinstance(self.found, Labelled):
            return self.found.statistics.mask.nbytes + self.found.statistics.confidence.nbytes
        return 0


class SegmentSpan:
    """Labels spans, part by part: read ahead in a thread, label, commit, report.

    Raises where it cannot start: a `MaskfleetError` for versions or a precision that are not those of the run, or an
    output out of reach, and what the machine itself raises, such as `OSError` on a full disk.
    """

    def __init__(self, config: WorkerConfig, network: Prepared) -> None:
        self._config = config
        if config.engine is not None:
            check_worker(config.engine, config.labels_version)
        self._store = writable_store_for(config.output)
        self._labeller = Labeller(load_engine(network), config.labels)
        load_machine_code()  # here, where no image's time limit counts
        output = hashlib.sha256(f"{config.output} {config.fingerprint}".encode()).hexdigest()[:24]
        self._quarantine = Quarantine(scratch_folder() / "begun" / output, network, config.labels, config.image_timeout_s)
        self._answers = Answers()
        self._beside = Beside(config.output)
        self._retries = retries()
        self._milliseconds = {"read": 0.0, "commit": 0.0}  # CPU time, as the labeller's
        engine = self._labeller.engine
        self._versions = {
            "engine": engine.version, "labels": str(LABELS_VERSION), "instruction_set": engine.instruction_set,
            "pillow": version("pillow"), "pyarrow": version("pyarrow"),
        }  # fmt: skip

    def __call__(self, span: Span) -> Iterator[PartReport]:
        """One report a part, in order; the last may say why the rest of the span was left.

        Before that of a part come those that say how much of it is done, after each `heartbeat_rows`: by count, not by
        time, and of a part that was there too, as Ray repeats what a dead worker yielded by position.
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
            last = _ended_by(error, span)
        if last.error_class == Incomplete.__name__:
            time.sleep(PAUSE_S)
        yield last

    def _parts(self, span: Span) -> Iterator[PartReport]:
        cursor = beginning(span, self._config.output)
        while True:
            there = self._committed(span, cursor.index)
            if there is None:
                break
            yield from self._heartbeats(0, there.rows - 1)
            yield PartReport(part=str(there), rows=there.rows)
            if there.last or there.stop == span.stop:
                return
            cursor = read_footer(self._store, self._config.output, there).after
        with (
            closing(self._quarantine.watch(span.digest, cursor.index)) as watch,
            closing(
                ReadAhead(self._prepared(span, cursor, watch), IMAGES_AHEAD, max_bytes=WAITING_BYTES, size_of=_Item.size)
            ) as images,
        ):
            item = next(images, None)
            first, parts = cursor.index, 0
            while True:
                report, name, item, cursor = yield from self._part(span, first, cursor, item, images, watch)
                watch.committed(cursor.index)
                yield report
                parts += 1
                if name.last or name.stop == span.stop or parts == span.max_parts:
                    return
                if not report.committed and ((there := self._committed(span, first)) is None or there != name):
                    return  # who made it saw the source otherwise: what is left of it is for a later round to say
                first = name.stop
                if not self._config.patient and (not report.committed or self._committed(span, first)):
                    return  # another attempt is at work right here: leave it the span, a later round looks again

    def _committed(self, span: Span, first: int) -> PartName | None:
        """The part that begins at this index, if somebody has committed it."""
        masks = join(self._config.output, "masks")
        names = [part_key(span.digest, first, self._config.part_images)]
        if self._config.plan_format == 1:
            names += self._store.names(join(masks, f"{span.digest}-{first:010d}-"), OLD_NAMES_S)
        for name in names:
            with suppress(ObjectMissing):
                info = self._store.stat(join(masks, name))
                if (part := PartName.parse(name, info.size or 0, info.version or "")) is not None:
                    return part
        return None

    def _prepared(self, span: Span, cursor: Cursor, watch: Watch) -> Iterator[_Item]:
        """Images decoded and resized, ahead of the network, in a thread of their own."""
        with closing(self._encoded(span, cursor, watch)) as images:
            position = cursor.index
            while True:
                started = time.thread_time()
                with watch.unpacking(position) if span.source.kind == "parquet" else nullcontext():
                    encoded = next(images, None)
                self._milliseconds["read"] += 1000 * (time.thread_time() - started)
                if encoded is None:
                    return
                position = encoded.after.index
                item = _Item(replace(encoded, data=None), self._read(encoded, watch))
                del encoded  # else its bytes lie in memory beside those of the next
                yield item
                del item

    def _read(self, encoded: EncodedImage, watch: Watch) -> Resized | Labelled | BadImage:
        if encoded.error is not None:
            return encoded.error
        assert encoded.data is not None
        if watch.suspect(encoded.position):
            return watch.judge(encoded.position, encoded.data, encoded.name)
        try:
            with watch.decoding(encoded.position):
                return self._labeller.read(encoded.data, encoded.name)
        except BadImage as error:
            error.__cause__ = error.__context__ = None  # their frames hold the bytes of the image
            return error.with_traceback(None)
        except MemoryError:
            if not watch.was_left:
                raise  # for a later round, which knows; the memory may be back by then
        return watch.judge(encoded.position, encoded.data, encoded.name)

    def _encoded(self, span: Span, cursor: Cursor, watch: Watch) -> Generator[EncodedImage]:
        source, read = span.source, self._config.read
        if source.kind == "image":
            rows, secrets = read_plan_rows(self._config.output, source.uri, cursor.index, span.stop), dict(span.secrets)
            superseded = frozenset(span.superseded)  # may be all of them
            wanted = ((row, replace(image, secret=secrets.get(row))) for row, image in rows if row not in superseded)
            yield from read_images(wanted, read, self._answers, partial(self._beside.of, span))
            return
        yield from to_the_stop(self._of_shard(span, cursor, watch), source, cursor, span.stop)

    def _of_shard(self, span: Span, cursor: Cursor, watch: Watch) -> Iterator[EncodedImage]:
        """The images of a shard; one that was planned, and is gone or closed for good, breaks off there."""
        shard, position = span.source, cursor
        try:
            for image in self._reader(shard, cursor, watch):
                self._answers.heard(shard.fetch_uri)
                position = image.after
                yield image
                del image
        except FINAL as gone:
            if isinstance(gone, HostUnreachable) and shard.size is not None:
                raise  # its host was there when it was listed, and may come back
            since, signed, was_there = time.monotonic(), shard.secret is not None, shard.size is not None
            others = partial(self._beside.of, span)
            if not self._answers.is_its_own(
                shard.fetch_uri, gone, since=since, signed=signed, was_there=was_there, candidates=others
            ):
                raise StorageError(f"{gone} (and nothing else can be read there now)", gone.code) from gone
            if not self._answers.says_again(shard.fetch_uri):
                raise StorageError(f"{gone} (a moment ago, and not now)", gone.code) from gone
            yield truncation(shard, position, _why(gone))

    def _reader(self, shard: SourceObject, cursor: Cursor, watch: Watch) -> Iterator[EncodedImage]:
        read = self._config.read
        if shard.kind == "tar":
            return read_tar(store_for(shard.fetch_uri), shard, cursor, read)
        if watch.unpacks_apart:
            return watch.read_apart(shard, cursor, read)
        return read_parquet(store_for(shard.fetch_uri), shard, cursor, read)

    def _part(
        self, span: Span, first: int, start: Cursor, item: _Item | None, images: Iterator[_Item], watch: Watch
    ) -> Generator[PartReport, None, tuple[PartReport, PartName, _Item | None, Cursor]]:
        """Label one part and commit it -> its report and name, the first image of the next part, and where that lies."""
        draft = Draft(self._config.part, self._versions, span, first, start)
        before, began, done = self._spent(), time.perf_counter(), 0
        while item is not None and not draft.full and item.encoded.after.index <= draft.limit:
            self._add(draft, item, watch)
            passed = max(done, item.encoded.position - first)  # the rows before this one, which may be the last
            yield from self._heartbeats(done, passed)
            done = passed
            item = next(images, None)
        packing = time.thread_time()
        footer, data = draft.finish(exhausted=item is None)
        self._trace(footer, draft.inferred)  # before the commit: a put that is lost was work all the same
        started = time.perf_counter()
        version = self._store.create(join(self._config.output, "masks", str(footer.name)), data)
        committed = version is not None
        if committed and footer.failures:  # those of a part that was there before are not ours to write
            self._store.replace(join(self._config.output, "failures", str(footer.name)), failures_bytes(footer))
        self._milliseconds["commit"] += 1000 * (time.thread_time() - packing)
        yield from self._heartbeats(done, footer.rows - 1)
        spent = {stage: total - before.get(stage, 0.0) for stage, total in self._spent().items()}
        spent["commit"] = 1000 * (time.perf_counter() - started)  # wall time: the store's, too
        report = PartReport(
            part=str(footer.name), size=len(data), version=version or "",
            rows=footer.rows, failures=len(footer.failures), bytes=draft.bytes, inferred=draft.inferred,
            committed=committed, seconds=time.perf_counter() - began,
            footer=footer.to_json() if committed else None, milliseconds=spent,
        )  # fmt: skip
        return report, footer.name, item, footer.after

    def _heartbeats(self, done: int, rows: int) -> Iterator[PartReport]:
        """One for each `heartbeat_rows` that were passed between so many rows of a part and so many."""
        every = self._config.heartbeat_rows
        for number in range(done // every + 1, rows // every + 1):
            yield PartReport(in_hand=number * every)

    def _add(self, draft: Draft, item: _Item, watch: Watch) -> None:
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

    def _spent(self) -> dict[str, float]:
        """CPU milliseconds of this worker so far, by stage."""
        return self._labeller.milliseconds | self._milliseconds

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


def _why(gone: StorageError) -> str:
    if isinstance(gone, HostUnreachable):
        return f"the shard cannot be reached: {gone.code}"
    return "the shard is gone" if isinstance(gone, ObjectMissing) else "access to the shard is denied"


def _ended_by(error: Exception, span: Span) -> PartReport:
    """What is no error of ours: this node lacks something, or it is a `Bug`."""
    if isinstance(error, MemoryError):
        text = f"a worker on {socket.gethostname()} ran out of memory"
    elif is_of_node(error):
        text = f"a worker on {socket.gethostname()} cannot go on: {type(error).__name__}: {error}"
    else:
        return PartReport(error=without_secrets_of(span, traceback.format_exc()), error_class=Bug.__name__)
    return PartReport(error=without_secrets_of(span, text), error_class=Incomplete.__name__)
