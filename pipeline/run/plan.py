"""The plan: what there is to label. Written once, only ever added to; whoever loses the put reads the winner's."""

import gc
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.errors import Damaged, ObjectMissing, ShardChanged
from pipeline.run.identity import require_known_format
from pipeline.schema import PLAN
from pipeline.shards.base import Shard
from pipeline.storage import Store, WritableStore, join, store_for
from pipeline.storage.stream import RangeFile

SETTINGS_KEY = b"maskfleet"
ROWS_PER_FILE = 100_000
_ROW_GROUP = 8_192
_BATCH = 4_096  # entries of a listing that are looked up together
_ALLOCATIONS = 100_000  # between two collections of the youngest objects
_NAMED = 5  # changed shards that an error names


Found = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class PlanFile:
    """One file of the plan: `plan/NNNNN.parquet` holds only shards, or only single images."""

    number: int
    images: bool
    rows: int

    @property
    def name(self) -> str:
        """Relative to the run; the `source` of parts of single images."""
        return f"plan/{self.number:05d}.parquet"


@dataclass(frozen=True, slots=True)
class _Table:
    """Sorted by `high`; each array is contiguous, as a search would copy it otherwise."""

    file: int
    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    identity: npt.NDArray[np.uint64]
    row: npt.NDArray[np.uint32]

    def at(self, start: int, high: int, low: int) -> Found | None:
        """The row with these hashes, from `start`, the first with this `high`."""
        while start < len(self.high) and int(self.high[start]) == high:
            if int(self.low[start]) == low:
                return self.file, int(self.row[start]), int(self.identity[start])
            start += 1
        return None


class Known:
    """128-bit hashes of planned URIs and 64-bit hashes of their identities: 28 bytes an image."""

    def __init__(self) -> None:
        self._tables: list[_Table] = []

    def add(self, file: int, uris: Iterable[str], identities: Iterable[int]) -> None:
        """The rows of one plan file."""
        high, low = _hashes(uris)
        order = np.argsort(high, kind="stable")
        self._tables.append(
            _Table(file, high[order], low[order], np.fromiter(identities, np.uint64)[order], order.astype(np.uint32))
        )

    def find(self, uris: Sequence[str]) -> list[Found | None]:
        """File, row and identity hash of the latest row of each URI; one search a table for all of them."""
        found: list[Found | None] = [None] * len(uris)
        high, low = _hashes(uris)
        left = np.arange(len(uris))
        for table in (table for table in reversed(self._tables) if table.high.size):
            at = np.searchsorted(table.high, high[left])
            same = np.take(table.high, at, mode="clip") == high[left]
            for number, start in zip(left[same].tolist(), at[same].tolist(), strict=True):
                found[number] = table.at(start, int(high[number]), int(low[number]))
            left = left[[found[number] is None for number in left.tolist()]]
            if not left.size:
                break
        return found


@dataclass(slots=True)
class Plan:
    """All plan files of a run.

    settings: what is fixed for the run (of file 0). shards: by URI, the latest row counts.
    superseded: rows of image files that a later file replaces. known: of every planned URI.
    """

    settings: dict[str, Any]
    files: list[PlanFile] = field(default_factory=list)
    shards: dict[str, Shard] = field(default_factory=dict)
    superseded: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    known: Known = field(default_factory=Known)
    added: int = 0


def _hashes(uris: Iterable[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The halves of 128-bit hashes."""
    digests = b"".join(xxhash.xxh3_128_digest(uri.encode("utf-8", "surrogatepass")) for uri in uris)
    halves = np.frombuffer(digests, ">u8").astype(np.uint64)
    return np.ascontiguousarray(halves[0::2]), np.ascontiguousarray(halves[1::2])


def _identity(size: int | None, version: str | None) -> int:
    """0 where the server names neither size nor version: then nothing is checked."""
    return 0 if size is None or version is None else xxhash.xxh3_64_intdigest(f"{size}|{version}".encode()) or 1


def read_plan(store: Store, out: str) -> Plan | None:
    """The plan as it stands; None for an output without one."""
    plan = Plan(settings={})
    catch_up(store, out, plan)
    if not plan.files and any(True for _ in store.walk(join(out, "plan") + "/")):
        raise Damaged(f"{out}: plan/00000.parquet is gone, but later plan files are there: restore it, or use another --output")
    return plan if plan.files else None


def writes_queries(plan: Plan | None) -> bool:
    """Do the URIs of this plan hold the queries that tell images apart? Format 1 wrote none down."""
    return plan is None or plan.settings.get("format", 1) > 1


def catch_up(store: Store, out: str, plan: Plan) -> bool:
    """Take the files that are there and not in the plan yet; were there some?"""
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
    except MemoryError:  # of Arrow, too: says nothing of the file
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise Damaged(f"plan/00000.parquet cannot be read: {error}") from error
    require_known_format(settings, "the plan")
    return settings


def _include(plan: Plan, data: bytes) -> None:
    """Take the next plan file, ours or the winner's, into the plan."""
    number = len(plan.files)
    if number == 0:
        plan.settings = _settings(data)  # whose format says how to read the rest
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True).cast(PLAN)
        table.validate(full=True)  # text that is no UTF-8, for one
    except MemoryError:  # of Arrow, too: says nothing of the file
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"plan/{number:05d}.parquet cannot be read: {error}") from error
    images = "image" in set(table.column("kind").unique().to_pylist())
    uris = table.column("uri").to_pylist()
    sizes, versions = table.column("size").to_pylist(), table.column("version").to_pylist()
    identities = [_identity(size, version) for size, version in zip(sizes, versions, strict=True)]
    _take(plan, uris, identities, None if images else [Shard(**row) for row in table.to_pylist()])


def _take(plan: Plan, uris: Sequence[str], identities: Sequence[int], shards: Sequence[Shard] | None) -> None:
    """The rows of the next plan file; `shards`: None where they are single images."""
    number = len(plan.files)
    for earlier in plan.known.find(uris) if shards is None else ():
        if earlier is not None:
            plan.superseded[earlier[0]].append(earlier[1])
    plan.known.add(number, uris, identities)
    plan.files.append(PlanFile(number, shards is None, len(uris)))
    plan.shards.update((shard.uri, shard) for shard in shards or ())


def extend_plan(
    store: WritableStore,
    out: str,
    plan: Plan | None,
    listing: Iterator[Shard],
    settings: dict[str, Any],
    *,
    relabel_changed: bool = False,
) -> Plan:
    """Add what the listing names and the plan does not. Raises `ShardChanged` for planned objects that changed.

    Rows are streamed: at most `ROWS_PER_FILE` of the listing are in memory, besides 28 bytes a planned image.
    """
    plan = plan or Plan(settings=settings)
    with _rare_collections():
        _extend(store, out, plan, listing, settings, relabel_changed=relabel_changed)
    return plan


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A million rows that stay: looking through them for garbage again and again took a fifth of listing and planning."""
    before = gc.get_threshold()
    gc.set_threshold(_ALLOCATIONS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _extend(
    store: WritableStore, out: str, plan: Plan, listing: Iterator[Shard], settings: dict[str, Any], *, relabel_changed: bool
) -> None:
    changed: list[str] = []
    pending: dict[bool, dict[str, Shard]] = {False: {}, True: {}}
    batches = iter(lambda: list(islice(listing, _BATCH)), [])
    for entry, state in ((entry, state) for batch in batches for entry, state in _states(plan, batch)):
        if state == "changed" and not relabel_changed:
            changed.append(entry.uri)
        elif state != "planned":
            rows = pending[entry.kind == "image"]
            rows.setdefault(entry.uri, entry)
            if len(rows) >= ROWS_PER_FILE and not changed:
                _write_rows(store, out, plan, rows, settings, relabel_changed=relabel_changed)
                rows.clear()
    _refuse(changed)
    for images in (False, True):
        _write_rows(store, out, plan, pending[images], settings, relabel_changed=relabel_changed)
    catch_up(store, out, plan)  # what another attempt has added meanwhile


def _refuse(changed: list[str]) -> None:
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise ShardChanged(
            f"planned, but another object now: {', '.join(changed[:_NAMED])}{more}; --relabel-changed labels them again"
        )


def _states(plan: Plan, entries: list[Shard]) -> list[tuple[Shard, str]]:
    """Each entry with `new`, `changed` or `planned`."""
    states: list[tuple[Shard, str]] = []
    for entry, found in zip(entries, plan.known.find([entry.uri for entry in entries]), strict=True):
        mine = _identity(entry.size, entry.version)
        changed = found is not None and mine and found[2] and mine != found[2]
        states.append((entry, "new" if found is None else "changed" if changed else "planned"))
    return states


def _write_rows(
    store: WritableStore, out: str, plan: Plan, rows: dict[str, Shard], settings: dict[str, Any], *, relabel_changed: bool
) -> None:
    """Write rows as the next plan file; where another attempt was first, take its file and write what is still new."""
    while left := [entry for entry, state in _states(plan, list(rows.values())) if state != "planned"]:
        number = len(plan.files)
        data = _plan_bytes(left, settings)
        won = store.create(join(out, f"plan/{number:05d}.parquet"), data)
        plan.added += len(left) if won else 0
        if won:  # the rows as they were listed: half the time and memory of reading a million of them back
            images = left[0].kind == "image"
            _take(plan, [row.uri for row in left], [_identity(row.size, row.version) for row in left], None if images else left)
        else:
            _include(plan, _read_file(store, out, number) or b"")
        if not won and not relabel_changed:  # the other attempt may have seen another object under the same name
            _refuse([entry.uri for entry, state in _states(plan, list(rows.values())) if state == "changed"])


def _plan_bytes(rows: list[Shard], settings: dict[str, Any]) -> bytes:
    columns = {name: [getattr(row, name) for row in rows] for name in PLAN.names}
    schema = PLAN.with_metadata({SETTINGS_KEY: json.dumps(settings, sort_keys=True)})
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=schema), sink, compression="zstd", row_group_size=_ROW_GROUP, write_page_checksum=True
    )
    return sink.getvalue()


def read_plan_rows(out: str, name: str, first: int, stop: int | None) -> Iterator[tuple[int, Shard]]:
    """Rows `first` to `stop` of one plan file, by the row groups that hold them."""
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
                    yield row, Shard(**values)
                row += 1
