"""`verify`: prove that a run is whole: planned images = masks + failures, none twice, every byte as it was written.

Three questions, in this order. Do the parts cover the plan? Their names say it. Is each part what its name, its footer
and the plan promise? Its bytes say it. Are the derived files the sums of the parts? Asked only of a run that has ended.
"""

import base64
import io
import json
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.errors import Damaged, NotReachable, ObjectMissing, StorageError
from pipeline.labels.labeller import class_rows
from pipeline.labels.png import voc_palette
from pipeline.labels.statistics import IGNORE, LEVELS, MaskStatistics, least_confidence, mask_statistics
from pipeline.run.identity import fingerprint
from pipeline.run.left import plan_file_digest, shard_digest
from pipeline.run.parts import FOOTER_FORMAT, FOOTER_KEY, PartFooter, PartName, add_digests, failures_bytes, row_digest
from pipeline.run.plan import SETTINGS_KEY, Plan, PlanFile, read_plan
from pipeline.run.summary import Totals, read_run_json
from pipeline.schema import PLAN, masks_schema
from pipeline.storage import Store, WritableStore, join, normalise, store_for

Kind = Literal["missing", "damaged", "derived"]
T = TypeVar("T")
R = TypeVar("R")

READERS = 8  # parts in memory at a time
_ARROW_SCHEMA = b"ARROW:schema"
_NULLABLE = {"member", "offset", "length", "path"}
_WRITER = re.compile(r"parquet-cpp-arrow version \d+\.\d+\.\d+(-[\w.]+)?")
_INDEX, _GRAY = 3, 0  # colour types of the PNG header


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one object: a file, relative to OUT, or (`missing`) the planned shard or plan file that lacks parts."""

    object: str
    problem: str
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found. The counts are of parts that are in order."""

    images: int
    masks: int
    failures: int
    parts: int
    findings: tuple[Finding, ...]

    @property
    def state(self) -> Literal["whole", "incomplete", "damaged"]:
        """Damage wins over parts that are missing."""
        if any(finding.kind != "missing" for finding in self.findings):
            return "damaged"
        return "incomplete" if self.findings else "whole"

    @property
    def exit_code(self) -> int:
        """Of the job: 0, 5 or 7."""
        return {"whole": 0, "incomplete": 5, "damaged": 7}[self.state]

    @property
    def advice(self) -> str | None:
        """What to do about it, on one line."""
        if self.state == "whole":
            return None
        if any(finding.object.startswith("plan/") and finding.kind == "damaged" for finding in self.findings):
            return "the plan cannot be made again: restore plan/ from a copy, or label into another --output"
        again = "run the same segment command again (nothing is labelled twice), then verify again"
        return again if self.state == "incomplete" else f"remove the damaged files of masks/ and failures/ named above, {again}"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"findings": [asdict(finding) for finding in self.findings], "state": self.state}


def verify(out: str, *, deep: bool = False) -> Verification:
    """Read every file of the run at `out`, and, if `deep`, decode every mask and count its pixels again.

    Raises `NotReachable` where there is no run, or where something cannot be read for reasons of its store.
    """
    out = normalise(out).rstrip("/") or "/"
    try:
        return _Verifier(store_for(out), out, deep=deep).run()
    except StorageError as error:
        raise NotReachable(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Rules:
    """What the plan fixes for every part. least: the least confidence (uint8) that a mask keeps."""

    fingerprint: str
    classes: tuple[str, ...]
    least: int
    confidence_map: bool

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "_Rules":
        labels = settings["labels"]
        least = least_confidence(labels["min_confidence"])
        return cls(settings["fingerprint"], tuple(labels["classes"]), least, settings["shape"]["confidence_map"])


@dataclass(frozen=True, slots=True)
class _Planned:
    """A part, and what the plan says of it. uris: the rows of the plan file that it covers; None for a shard."""

    name: PartName
    source: dict[str, Any]
    uris: pa.StringArray | None = None
    superseded: frozenset[int] = frozenset()

    def keys(self) -> list[tuple[str, int]]:
        """(shard, index) of every row that it must have, as a mask or as a failure."""
        if self.uris is None:
            return [(self.source["uri"], index) for index in range(self.name.first, self.name.stop)]
        rows = enumerate(self.uris.to_pylist(), self.name.first)
        return [(uri, 0) for row, uri in rows if row not in self.superseded]


class _Verifier:
    def __init__(self, store: Store, out: str, *, deep: bool) -> None:
        self._store, self._out, self._deep = store, out, deep
        self._findings: list[Finding] = []
        self._parts = self._images = self._masks = 0
        self._rules: _Rules | None = None

    def run(self) -> Verification:
        plan = self._plan()
        if plan is not None:
            self._run(plan)
        return Verification(
            images=self._images, masks=self._masks, failures=self._images - self._masks, parts=self._parts,
            findings=tuple(self._findings),
        )  # fmt: skip

    def _run(self, plan: Plan) -> None:
        self._rules = _Rules.of(plan.settings)
        run = read_run_json(cast(WritableStore, self._store), self._out)  # which only reads
        parts = self._list_parts(plan)
        if not self._found("missing") and run is not None and run.get("state") != "complete":
            self._add("run.json", f"the run has not come to its end (state {run.get('state')!r})", "missing")
        ended = not self._found("missing")
        totals = Totals(self._rules.classes)
        with_failures: set[str] = set()
        for footer, findings in _each(self._planned(plan, parts), lambda planned: self._check(planned, ended=ended)):
            self._findings += findings
            if footer is not None:
                totals.add(footer)
                with_failures |= {str(footer.name)} if footer.failures else set()
        self._parts, self._images, self._masks = len(totals.parts), totals.images, totals.masks
        if not ended or self._found("missing"):
            return
        for name in self._names("failures"):
            if name not in with_failures and (name in totals.parts or PartName.parse(name) not in parts.get(name[:24], ())):
                self._add(f"failures/{name}", "no part has these failures", "derived")
        if not self._found("damaged"):  # else the sums lack a part
            self._check_sums(plan, totals, run)

    def _add(self, name: str, problem: str, kind: Kind) -> None:
        self._findings.append(Finding(name, problem, kind))

    def _found(self, kind: Kind) -> bool:
        return any(finding.kind == kind for finding in self._findings)

    def _names(self, folder: str) -> list[str]:
        prefix = join(self._out, folder) + "/"
        return [info.uri.removeprefix(prefix) for info in self._store.walk(prefix)]

    def _read(self, name: str) -> bytes:
        return self._store.read(join(self._out, name))

    def _plan(self) -> Plan | None:
        """The plan, or None where it is damaged: then nothing can be said of the parts."""
        names = self._names("plan")
        if not names and not self._names("masks"):
            raise NotReachable(f"{self._out}: no run there (no plan/00000.parquet)")
        wanted = [f"{number:05d}.parquet" for number in range(len(names) or 1)]
        for name in sorted({*names} - {*wanted}):
            self._add(f"plan/{name}", "not the next plan file", "damaged")
        for name in sorted({*wanted} - {*names}):
            self._add(f"plan/{name}", "gone", "damaged")
        fingerprints = set()
        for name in sorted({*wanted} & {*names}):
            try:
                fingerprints.add(_check_plan_file(self._read(f"plan/{name}")))
                _demand(len(fingerprints) == 1, "its settings are not those of the files before it")
            except Damaged as damage:
                self._add(f"plan/{name}", str(damage), "damaged")
        return None if self._findings else read_plan(cast(WritableStore, self._store), self._out)

    def _list_parts(self, plan: Plan) -> dict[str, list[PartName]]:
        """The parts of each planned source, in order; what is wrong with their names, and between them, is noted."""
        shards = {shard_digest(shard): shard.uri for shard in plan.shards.values()}
        files = {plan_file_digest(file): file for file in plan.files if file.images}
        parts: dict[str, list[PartName]] = defaultdict(list)
        for file_name in self._names("masks"):
            if (name := PartName.parse(file_name)) is None:
                self._add(f"masks/{file_name}", "not the name of a part", "damaged")
            elif name.source not in shards and name.source not in files:
                self._add(f"masks/{name}", "a part of no planned source", "damaged")
            else:
                parts[name.source].append(name)
        for source, uri in shards.items():
            self._findings += _chain(uri, sorted(parts[source]), None)
        for source, file in files.items():
            self._findings += _chain(file.name, sorted(parts[source]), file.rows)
        return parts

    def _planned(self, plan: Plan, parts: Mapping[str, Sequence[PartName]]) -> Iterator[_Planned]:
        """Every part of a planned source; the URIs of one plan file at a time are in memory."""
        for shard in plan.shards.values():
            source = {"uri": shard.uri, "size": shard.size, "version": shard.version}
            yield from (_Planned(name, source) for name in parts[shard_digest(shard)])
        for file in (file for file in plan.files if file.images):
            names = parts[plan_file_digest(file)]
            yield from self._planned_images(file, names, frozenset(plan.superseded.get(file.number, ()))) if names else ()

    def _planned_images(self, file: PlanFile, names: Sequence[PartName], superseded: frozenset[int]) -> Iterator[_Planned]:
        uris = pq.read_table(pa.BufferReader(self._read(file.name)), columns=["uri"]).column("uri").combine_chunks()
        source = {"uri": file.name, "size": None, "version": None}
        for name in names:
            yield _Planned(name, source, uris.slice(name.first, name.rows), superseded)

    def _check(self, planned: _Planned, *, ended: bool) -> tuple[PartFooter | None, list[Finding]]:
        """In a thread: one part and, if the run has ended, its file of failures."""
        name = f"masks/{planned.name}"
        assert self._rules is not None
        try:
            footer = _check_part(self._read(name), planned, self._rules, deep=self._deep)
        except ObjectMissing:
            return None, [Finding(name, "gone since it was listed", "missing")]
        except Damaged as damage:
            return None, [Finding(name, str(damage), "damaged")]
        if not ended or not footer.failures:
            return footer, []
        name = f"failures/{planned.name}"
        try:
            same = _same(self._read(name), _open(failures_bytes(footer))[0])
            return footer, [] if same else [Finding(name, "not the failures of its part", "derived")]
        except ObjectMissing:
            return footer, [Finding(name, "gone; its part has failures", "derived")]
        except Damaged as damage:
            return footer, [Finding(name, str(damage), "derived")]

    def _check_sums(self, plan: Plan, totals: Totals, run: Mapping[str, Any] | None) -> None:
        """`class_stats.parquet` and `run.json` against the sums over all parts."""
        assert self._rules is not None
        try:
            if not _same(self._read("class_stats.parquet"), totals.class_stats(self._rules.least)):
                self._add("class_stats.parquet", "not the sums of the parts", "derived")
        except ObjectMissing:
            self._add("class_stats.parquet", "gone", "derived")
        except Damaged as damage:
            self._add("class_stats.parquet", str(damage), "derived")
        if run is None:
            self._add("run.json", "gone, or no JSON object", "derived")
            return
        counts = run.get("counts")
        said = {f"counts.{name}": value for name, value in counts.items()} if isinstance(counts, dict) else {}
        said |= {name: value for name, value in run.items() if name != "counts"}
        is_so = {f"counts.{name}": getattr(totals, name) for name in ("images", "masks", "failures", "broken_shards")}
        is_so |= {"labels_digest": totals.labels_digest, "errors": dict(totals.errors), **plan.settings}
        for name, value in is_so.items():
            if said.get(name) != value:
                self._add("run.json", f"{name} is {_short(said.get(name))}, the parts say {_short(value)}", "derived")


def _each(jobs: Iterable[T], check: Callable[[T], R]) -> Iterator[R]:
    """`check` of every job, in order, in threads that are at most a few jobs ahead."""
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(READERS, "verify") as threads:
        try:
            for job in jobs:
                running.append(threads.submit(check, job))
                if len(running) > 2 * READERS:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _chain(source: str, parts: Sequence[PartName], rows: int | None) -> Iterator[Finding]:
    """Gaps and overlaps of the parts of one source, which has so many rows (None: its last part says how many)."""
    expected, previous = 0, None
    for part in parts:
        if previous is not None and (part.first < expected or previous.last):
            yield Finding(f"masks/{part}", f"covers indices that masks/{previous} covers, or lies behind its end", "damaged")
            continue
        if part.first > expected:
            yield Finding(source, f"no part has indices {expected} to {part.first - 1}", "missing")
        if rows is not None and (part.stop > rows or part.last != (part.stop == rows)):
            yield Finding(f"masks/{part}", f"ends at {part.stop}, its plan file at {rows}: one of the names lies", "damaged")
        expected, previous = part.stop, part
    if previous is None or not previous.last:
        yield Finding(source, f"no part has index {expected} and what follows", "missing")


def _demand(holds: object, problem: str) -> None:
    if not holds:
        raise Damaged(problem)


def _open(data: bytes) -> tuple[pa.Table, bool]:
    """The table in a Parquet file of a run, and whether the Arrow that runs here says to have written it.

    Raises `Damaged` unless every byte is what maskfleet writes for that table. Checksums cover the pages only. What lies
    around them is found by writing the table again, where this is the same Arrow: an equal length with other bytes is
    damage; another length only says that its zstd is another. Of another Arrow's files the contents are judged.
    """
    _demand(data[:4] == b"PAR1", "not a Parquet file, or a damaged one: it does not begin with PAR1")
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        metadata = dict(file.metadata.metadata or {})
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(metadata.pop(_ARROW_SCHEMA), validate=True)))
        table = file.read(use_threads=False).combine_chunks().cast(schema)  # Parquet has its own name for list items
        table.validate(full=True)
        groups = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        sink = pa.BufferOutputStream()
        size = groups[0] if len(groups) > 1 else None
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True, row_group_size=size)
        again = sink.getvalue()
        mine = file.metadata.created_by == pq.read_metadata(pa.BufferReader(again)).created_by
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise Damaged(f"cannot be read: {(str(error).splitlines() or [''])[0][:200]}") from error
    _demand((schema.metadata or {}) == metadata, "its metadata is stored twice, and the copies differ")
    _demand(sum(groups) == table.num_rows and len(set(groups[:-1])) <= 1, "its row groups are not those that were written")
    _demand(mine or _WRITER.fullmatch(file.metadata.created_by or ""), "it was not written by Arrow")
    _demand(not mine or again.size != len(data) or again.equals(pa.py_buffer(data)), "some bytes are not those that were written")
    return table, mine


def _is_like(schema: pa.Schema, wanted: pa.Schema) -> bool:
    """The same names and types, those inside of lists too, which `equals` does not look at."""
    return bool(schema.equals(wanted)) and [str(kind) for kind in schema.types] == [str(kind) for kind in wanted.types]


def _same(data: bytes, table: pa.Table) -> bool:
    """Does a Parquet file hold this table? Raises `Damaged`."""
    found, _ = _open(data)
    return _is_like(found.schema, table.schema) and bool(found.equals(table))


def _check_plan_file(data: bytes) -> str:
    """Raises `Damaged`; -> the fingerprint of its settings."""
    table, _ = _open(data)
    _demand(_is_like(table.schema, PLAN), "not the columns of a plan")
    kinds, uris = table.column("kind").unique().to_pylist(), table.column("uri")
    _demand(kinds == ["image"] or (kinds and {*kinds} <= {"tar", "parquet"}), f"it plans {kinds}")
    _demand(len(uris.unique()) == len(uris) and not uris.null_count, "it names an object twice")
    try:
        settings = json.loads(table.schema.metadata[SETTINGS_KEY])
        rules = _Rules.of(settings)
        _demand(fingerprint(settings["labels"]) == rules.fingerprint, "its fingerprint is not that of its settings")
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged("its settings cannot be read") from error
    return rules.fingerprint


def _check_part(data: bytes, planned: _Planned, rules: _Rules, *, deep: bool) -> PartFooter:
    """Is a part what its name, its footer and the plan say? Raises `Damaged` with the first thing that is not so."""
    table, mine = _open(data)
    metadata = dict(table.schema.metadata or {})
    _demand(FOOTER_KEY in metadata, "no footer of maskfleet")
    footer = PartFooter.from_json(metadata.pop(FOOTER_KEY))
    schema = masks_schema(confidence_map=rules.confidence_map)
    name = planned.name
    _demand(footer.format == FOOTER_FORMAT, f"a footer of format {footer.format}; this maskfleet reads {FOOTER_FORMAT}")
    _demand(footer.name == name, f"its footer says that it is {footer.name}")
    _demand(footer.source == planned.source, "its footer names another source than the plan")
    _demand(footer.fingerprint == rules.fingerprint, f"made with other settings than the plan's: {footer.fingerprint[:16]}…")
    _demand(_is_like(table.schema, schema) and metadata == schema.metadata, "its columns are not those of this run")
    _demand(
        not any(_nulls(field.name, table.column(field.name).combine_chunks()) for field in schema), "a null where a value must be"
    )
    _demand(mine or footer.versions.get("pyarrow") != pa.__version__, "its footer and its header name two versions of Arrow")
    _demand(footer.masks == table.num_rows, f"{table.num_rows} rows; its footer says {footer.masks}")
    _demand(footer.last or footer.after.index == name.stop, f"its footer goes on at {footer.after.index}, not at {name.stop}")
    _check_keys(table, footer, planned)
    _check_columns(table, footer, rules)
    if deep:
        _check_labels(table, footer, rules)
    return footer


def _nulls(name: str, column: pa.Array) -> bool:
    """Does a column hold a null, at any depth, where there must be none?"""
    if name in _NULLABLE:
        return False
    if column.null_count:
        return True
    if pa.types.is_struct(column.type):
        return any(_nulls(field.name, column.field(number)) for number, field in enumerate(column.type))
    return pa.types.is_list(column.type) and _nulls("", column.flatten())


def _check_keys(table: pa.Table, footer: PartFooter, planned: _Planned) -> None:
    """Each planned (shard, index) once, as a mask or as a failure."""
    have = Counter(zip(table.column("shard").to_pylist(), table.column("index").to_pylist(), strict=True))
    have.update((failure.shard, failure.index) for failure in footer.failures)
    wanted = Counter(planned.keys())
    if strange := have - wanted:
        key = min(strange)
        raise Damaged(f"{key[0]} #{key[1]} {'is there twice' if key in wanted else 'is not in its range'}")
    if lacking := wanted - have:
        raise Damaged("it has no row of {} #{}".format(*min(lacking)))


def _check_columns(table: pa.Table, footer: PartFooter, rules: _Rules) -> None:
    """The sums in the footer against the columns that they are sums of."""
    count = len(rules.classes)
    images, pixels = [0] * count, [0] * count
    area = sum(w * h for w, h in zip(table.column("width").to_pylist(), table.column("height").to_pylist(), strict=True))
    for found in (found for row in table.column("classes").to_pylist() for found in row):
        class_id = found["class_id"]
        _demand(
            0 <= class_id < count and found["name"] == rules.classes[class_id],
            f"class {class_id} {found['name']!r} is not in the run",
        )
        images[class_id] += 1
        pixels[class_id] += found["pixels"]
    _demand(footer.pixels == area, f"{area} pixels; its footer says {footer.pixels}")
    _demand(list(footer.images_by_class) == images, "its images by class are not those of its rows")
    _demand(list(footer.pixels_by_class) == pixels, "its pixels by class are not those of its rows")
    histograms = footer.histograms
    _demand(histograms.shape == (count, LEVELS) and histograms.sum() == area, "its histograms are not of its pixels")
    _demand(histograms[:, rules.least :].sum(axis=1).tolist() == pixels, "its histograms are not of its classes")


def _check_labels(table: pa.Table, footer: PartFooter, rules: _Rules) -> None:
    """Decode every mask and confidence map, one at a time, and count again."""
    digests: list[int] = []
    seen = np.zeros((LEVELS, LEVELS), np.int64)
    for number in range(table.num_rows):
        (row,) = table.slice(number, 1).to_pylist()
        try:
            mask, histogram = _check_row(row, rules)
        except Damaged as damage:
            raise Damaged(f"{row['shard']} #{row['index']}: {damage}") from damage
        digests.append(row_digest(row["shard"], row["index"], mask))
        seen += histogram
    _demand(add_digests(digests) == footer.digest, "its share of labels_digest is not that of its masks")
    if rules.confidence_map:  # the classes of ignored pixels are not stored, their confidences are
        kept, ignored = np.split(footer.histograms, [rules.least], axis=1)[::-1]
        same = np.array_equal(seen[: len(kept), rules.least :], kept) and np.array_equal(
            seen[IGNORE, : rules.least], ignored.sum(axis=0)
        )
        _demand(same, "its histograms are not those of its confidence maps")


def _check_row(row: dict[str, Any], rules: _Rules) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """-> the mask, uint8 (H, W), and its pixels by id and confidence, int64 (256, 256). Raises `Damaged`."""
    size, count = (row["width"], row["height"]), len(rules.classes)
    mask = _decode(row["mask"]["bytes"], size, _INDEX)
    confidence = _decode(row["confidence"]["bytes"], size, _GRAY) if rules.confidence_map else np.zeros_like(mask)
    seen = mask_statistics(mask, confidence, LEVELS, 0.0)  # every id has its row, 255 too
    _demand(not seen.pixels[count:IGNORE].any(), "the mask holds a class that the run does not have")
    known = MaskStatistics(mask, seen.histogram[:count], seen.pixels[:count], seen.confidence_sums[:count], seen.boxes[:count])
    counted, stored = class_rows(known, rules.classes), row["classes"]
    if rules.confidence_map:
        below = seen.histogram[:count, : rules.least].any() or seen.histogram[IGNORE, rules.least :].any()
        _demand(not below, "the mask ignores other pixels than those of low confidence")
        _demand(np.float32(seen.mean_confidence) == np.float32(row["mean_confidence"]), "mean_confidence is not that of its map")
    elif len(counted) == len(stored):  # there is nothing to count mean confidences from
        counted = [mine | {"mean_confidence": theirs["mean_confidence"]} for mine, theirs in zip(counted, stored, strict=True)]
    as_stored = pa.array([counted], masks_schema().field("classes").type).to_pylist()[0]
    _demand(as_stored == stored, "classes are not those of the mask")
    _demand(np.float32(known.ignored_fraction) == np.float32(row["ignored_fraction"]), "ignored_fraction is not that of the mask")
    return mask, seen.histogram


def _decode(data: bytes, size: tuple[int, int], colour_type: int) -> npt.NDArray[np.uint8]:
    """An 8-bit PNG of that size and colour type -> uint8 (H, W). Raises `Damaged`."""
    what = "mask" if colour_type == _INDEX else "confidence map"
    header = data[16:24]
    is_size = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    _demand(data[24:26] == bytes([8, colour_type]), f"the {what} is no 8-bit {'index' if colour_type == _INDEX else 'gray'} PNG")
    _demand(is_size == size, f"the {what} is {is_size[0]}x{is_size[1]}, its row says {size[0]}x{size[1]}")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            pixels = np.array(image)
            palette = image.getpalette()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged data
        raise Damaged(f"the {what} cannot be decoded: {type(error).__name__}") from error
    _demand(pixels.dtype == np.uint8 and pixels.shape == size[::-1], f"the {what} is no PNG of one channel")
    _demand(colour_type == _GRAY or bytes(palette or ()) == voc_palette(), "the palette of the mask is not that of PASCAL VOC")
    return pixels


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 70 else text[:69] + "…"
