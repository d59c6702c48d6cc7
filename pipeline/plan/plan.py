"""The plan: what there is to label. Written once, then only added to. An attempt that loses a put reads the winner's file."""

import io
import json
import tempfile
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import Damaged, ObjectMissing, ShardChanged, StorageError
from pipeline.memory import rare_collections
from pipeline.plan.fingerprint import check_same, require_known_format
from pipeline.plan.uri_index import Found, Known, Rows, identity
from pipeline.schema import PLAN
from pipeline.shards.base import SourceObject
from pipeline.shards.range_file import RangeFile
from pipeline.storage import Store, WritableStore, join, store_for

SETTINGS_KEY = b"maskfleet"
ROWS_PER_FILE = 100_000
_ROW_GROUP = 8_192
_BATCH = 4_096  # entries of a listing that are looked up together
_NAMED = 5  # an error names at most so many changed shards
_SPOOLED_BYTES = 32 << 20  # so many bytes of unwritten plan files wait in memory; more wait on disk


@dataclass(frozen=True, slots=True)
class PlanFile:
    """One file of the plan: `plan/NNNNN.parquet`. It holds only shards, or only single images."""

    number: int
    images: bool
    rows: int

    @property
    def name(self) -> str:
        """Path relative to the run. For single images, this is the `source` of their parts."""
        return f"plan/{self.number:05d}.parquet"


@dataclass(slots=True)
class Plan:
    """All plan files of a run.

    settings: what is fixed for the run (in file 0). shards: URI -> its latest row. known: hashes of every planned URI.
    superseded: file number -> rows of single images that a later file replaces. replaced: shards that a later row replaces.
    added: rows that this attempt has added. sources: cache of `remaining.planned_sources`, and the sizes that it is for.
    """

    settings: dict[str, Any]
    files: list[PlanFile] = field(default_factory=list)
    shards: dict[str, SourceObject] = field(default_factory=dict)
    superseded: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    replaced: list[SourceObject] = field(default_factory=list)
    known: Known = field(default_factory=Known)
    added: int = 0
    sources: tuple[tuple[int, int], dict[str, None]] | None = field(default=None, repr=False, compare=False)


def read_plan(store: Store, out: str) -> Plan | None:
    """The plan as it stands; None for an output without one."""
    plan = Plan(settings={})
    catch_up(store, out, plan)
    if not plan.files and any(True for _ in store.walk(join(out, "plan") + "/")):
        raise Damaged(f"{out}: plan/00000.parquet is gone, but later plan files are there: restore it, or use another --output")
    return plan if plan.files else None


def writes_queries(plan: Plan | None) -> bool:
    """Do the URIs of this plan have the queries that tell images apart? In format 1 they have none."""
    return plan is None or plan.settings.get("format", 1) > 1


def catch_up(store: Store, out: str, plan: Plan) -> bool:
    """Take plan files that are there, but not in the plan yet -> were there any?"""
    before = len(plan.files)
    while (data := _read_file(store, out, len(plan.files))) is not None:
        _include(plan, data)
    return len(plan.files) > before


def _read_file(store: Store, out: str, number: int) -> bytes | None:
    try:
        return store.read(join(out, f"plan/{number:05d}.parquet"))
    except ObjectMissing:
        return None


def _settings(data: bytes) -> dict[str, Any]:
    try:
        metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
        settings: dict[str, Any] = json.loads(metadata[SETTINGS_KEY])
    except MemoryError:  # also raised by Arrow; it says nothing about the file
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise Damaged(f"plan/00000.parquet cannot be read: {error}") from error
    require_known_format(settings, "the plan")
    return settings


def _include(plan: Plan, data: bytes) -> None:
    """Take the next plan file, which another attempt may have written, into the plan."""
    number = len(plan.files)
    if number == 0:
        plan.settings = _settings(data)  # checks their format before the rest is read
    table = _opened(number, data)
    images = "image" in set(table.column("kind").unique().to_pylist())
    uris = table.column("uri").to_pylist()
    sizes, versions = table.column("size").to_pylist(), table.column("version").to_pylist()
    rows = Rows.of(uris, (identity(size, version) for size, version in zip(sizes, versions, strict=True)))
    if images:
        _take(plan, rows, None, (earlier for earlier in plan.known.find(uris) if earlier is not None))
    else:
        _take(plan, rows, [SourceObject(**row) for row in table.to_pylist()])


def _opened(number: int, data: bytes) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True).cast(PLAN)
        table.validate(full=True)  # finds, for example, text that is no UTF-8
    except MemoryError:  # also raised by Arrow; it says nothing about the file
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"plan/{number:05d}.parquet cannot be read: {error}") from error
    return table


def _take(plan: Plan, rows: Rows, shards: Sequence[SourceObject] | None, superseded: Iterable[Found] = ()) -> None:
    """Take the rows of the next plan file. shards: None for single images. superseded: rows of images that they replace."""
    number = len(plan.files)
    for file, row, _ in superseded:
        plan.superseded[file].append(row)
    plan.known.add(number, rows)
    plan.files.append(PlanFile(number, shards is None, len(rows)))
    plan.replaced += [plan.shards[shard.uri] for shard in shards or () if shard.uri in plan.shards]
    plan.shards.update((shard.uri, shard) for shard in shards or ())


def extend_plan(
    store: WritableStore, out: str, plan: Plan | None, listing: Iterator[SourceObject], settings: dict[str, Any], *,
    relabel_changed: bool = False,
) -> Plan:  # fmt: skip
    """Add to the plan what the listing names and the plan does not have. An attempt that is refused adds nothing.

    Raises `RunMismatch` if the output was begun with other settings, `ShardChanged` if planned objects changed, and the errors
    of the listing. The whole listing is read before the first file is written. Meanwhile, single images wait as the bytes of
    their plan file, on disk if there are many: at most `ROWS_PER_FILE` rows are in memory, and 28 bytes per planned image.
    One exception: if another attempt writes between two files of this attempt, it may be refused with its first file written.
    """
    plan = plan or Plan(settings=settings)
    check_same(plan.settings, settings, out)
    with rare_collections(), tempfile.SpooledTemporaryFile(_SPOOLED_BYTES, prefix="maskfleet-plan-") as spool:
        addition = _Addition(store, out, plan, settings, spool, relabel_changed=relabel_changed)
        addition.look(listing)
        addition.write()
    return plan


def _refuse(changed: list[str]) -> None:
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise ShardChanged(
            f"planned, but another object now: {', '.join(changed[:_NAMED])}{more}; --relabel-changed labels them again"
        )


@dataclass(frozen=True, slots=True)
class _Draft:
    """A plan file that is not written yet. start, length: its bytes in the spool. shards: None for single images."""

    rows: Rows
    start: int
    length: int
    shards: Sequence[SourceObject] | None
    superseded: Sequence[Found]


class _Addition:
    """Adds a listing to a plan: first as drafts, then as files."""

    def __init__(
        self, store: WritableStore, out: str, plan: Plan, settings: dict[str, Any], spool: IO[bytes], *, relabel_changed: bool
    ) -> None:
        self._store, self._out, self._plan, self._settings, self._spool = store, out, plan, settings, spool
        self._relabel_changed = relabel_changed
        self._drafts: deque[_Draft] = deque()
        self._drafted = Known()

    def look(self, listing: Iterator[SourceObject]) -> None:
        """Draft the files that the listing adds. Raises `ShardChanged` if objects changed, unless changed ones are relabelled."""
        changed: list[str] = []
        pending: dict[bool, dict[str, tuple[SourceObject, Found | None]]] = {False: {}, True: {}}
        for batch in iter(lambda: list(islice(listing, _BATCH)), []):
            for entry, found in zip(batch, self._plan.known.find([entry.uri for entry in batch]), strict=True):
                if found is not None and not _is_changed(entry, found):
                    continue
                if found is not None and not self._relabel_changed:
                    changed.append(entry.uri)
                    continue
                rows = pending[entry.kind == "image"]
                rows.setdefault(entry.uri, (entry, found))
                if len(rows) >= ROWS_PER_FILE:
                    if not changed:
                        self._draft(list(rows.values()))
                    rows.clear()
        _refuse(changed)
        for rows in pending.values():
            self._draft(list(rows.values()))

    def _draft(self, rows: list[tuple[SourceObject, Found | None]]) -> None:
        drafted = self._drafted.find([entry.uri for entry, _ in rows])
        rows = [row for row, twice in zip(rows, drafted, strict=True) if twice is None]  # a URI named twice is one row
        entries = [entry for entry, _ in rows]
        if not entries:
            return
        images = entries[0].kind == "image"
        hashes = Rows.of((entry.uri for entry in entries), (identity(entry.size, entry.version) for entry in entries))
        data = _plan_bytes(entries, self._plan.settings)
        try:
            start = self._spool.seek(0, io.SEEK_END)
            self._spool.write(data)
        except OSError as error:
            raise StorageError(f"{error.strerror}: the plan waits in {tempfile.gettempdir()} until it is whole") from error
        superseded = [found for _, found in rows if found is not None] if images else []
        # Shards are kept as they were listed: with a million, half the time and memory of reading them back.
        self._drafts.append(_Draft(hashes, start, len(data), None if images else entries, superseded))
        self._drafted.add(len(self._drafts), hashes)

    def write(self) -> None:
        """Write the drafts as the next plan files. If another attempt is faster, take its files and draft again."""
        plan = self._plan
        while self._drafts:
            draft, number = self._drafts[0], len(plan.files)
            if number == 0:
                self._store.require_exclusive_create(self._out)
            if not self._store.create(join(self._out, f"plan/{number:05d}.parquet"), self._bytes(draft)):
                self._look_again(number)
                continue
            plan.added += len(draft.rows)
            _take(plan, draft.rows, draft.shards, draft.superseded)
            self._drafts.popleft()
        self._catch_up()  # take files that another attempt has added meanwhile

    def _catch_up(self) -> bool:
        found = catch_up(self._store, self._out, self._plan)
        check_same(self._plan.settings, self._settings, self._out)
        return found

    def _look_again(self, number: int) -> None:
        """Take the files that another attempt has added, and draft again: it may have seen other objects under these names."""
        if not self._catch_up():
            raise StorageError(f"plan/{number:05d}.parquet cannot be created in {self._out}, and is not there")
        drafts, self._drafts, self._drafted = self._drafts, deque(), Known()
        self.look(entry for draft in drafts for entry in draft.shards or self._images(draft))

    def _bytes(self, draft: _Draft) -> bytes:
        self._spool.seek(draft.start)
        return self._spool.read(draft.length)

    def _images(self, draft: _Draft) -> Iterator[SourceObject]:
        return (SourceObject(**row) for row in pq.read_table(pa.BufferReader(self._bytes(draft))).to_pylist())


def _is_changed(entry: SourceObject, found: Found) -> bool:
    mine, planned = identity(entry.size, entry.version), found[2]
    return bool(mine and planned and mine != planned)


def _plan_bytes(rows: list[SourceObject], settings: dict[str, Any]) -> bytes:
    columns = {name: [getattr(row, name) for row in rows] for name in PLAN.names}
    schema = PLAN.with_metadata({SETTINGS_KEY: json.dumps(settings, sort_keys=True)})
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=schema), sink, compression="zstd", row_group_size=_ROW_GROUP, write_page_checksum=True
    )
    return sink.getvalue()


def read_plan_rows(out: str, name: str, first: int, stop: int | None) -> Iterator[tuple[int, SourceObject]]:
    """Rows `first` to `stop` (None: to the end) of one plan file. Reads no row group before `first`."""
    uri = join(out, name)
    store = store_for(uri)
    with RangeFile(store, store.stat(uri), 1 << 20, ahead=False) as file:
        parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), page_checksum_verification=True)
        row = first - first % _ROW_GROUP
        groups = range(first // _ROW_GROUP, parquet.num_row_groups)
        for batch in parquet.iter_batches(1024, row_groups=list(groups)):
            for values in batch.to_pylist():
                if stop is not None and row >= stop:
                    return
                if row >= first:
                    yield row, SourceObject(**values)
                row += 1
