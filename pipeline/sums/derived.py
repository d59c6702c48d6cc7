"""Parts -> run.json, failures/ and class_stats.parquet. These derived files can be made again at any time."""

import threading
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.errors import Damaged, ObjectChanged, ObjectMissing
from pipeline.output.footer import PartFooter, failures_bytes, read_footer
from pipeline.output.parts import PartName, PartTable
from pipeline.output.run_json import parsed_run_json, run_json_bytes
from pipeline.output.run_view import FOOTER_READERS, list_planned
from pipeline.parallel import in_order
from pipeline.plan.fingerprint import require_known_format
from pipeline.storage import Store, WritableStore, join
from pipeline.sums.checkpoint import Checkpoint
from pipeline.sums.totals import Totals, is_among

_ROUNDS = 20  # so many times derived files are written while other attempts still commit
_MANY = 5_000  # more footers than this take over 12 s of one core: first see if another attempt has counted them


class FailureFiles:
    """Adds missing files to `failures/`. The folder is listed once, and only if a part that was read has failures."""

    def __init__(self, store: WritableStore, out: str) -> None:
        self._store, self._out = store, out
        self._there: npt.NDArray[np.uint64] | None = None
        self._lock = threading.Lock()  # so that one thread lists

    def fill(self, name: PartName, footer: PartFooter) -> None:
        """Write `failures/<part>` if a worker died after it committed the part and before it wrote this file. Thread-safe."""
        if not footer.failures:
            return
        with self._lock:
            if self._there is None:
                names = self._store.names(join(self._out, "failures") + "/")
                self._there = np.sort(np.fromiter((_hash(file_name) for file_name in names), np.uint64))
        if not is_among(np.array([_hash(str(name))], np.uint64), self._there)[0]:
            settle_failures(self._store, self._out, name, footer)


def settle_failures(store: WritableStore, out: str, name: PartName, footer: PartFooter | None) -> None:
    """Make `failures/<part>` hold what its part says, even if another attempt removes the part or makes it anew meanwhile.

    footer: of this part; None if the part was just removed. If the part was made anew, raises like `read_footer`.
    """
    part, uri, write = join(out, "masks", str(name)), join(out, "failures", str(name)), store.create
    version = None if footer is None else name.version
    for _ in range(_ROUNDS):
        if footer is None or not footer.failures:
            store.delete(uri)
        else:
            write(uri, failures_bytes(footer))
        there = None
        with suppress(ObjectMissing):
            there = store.stat(part)
        if (there and there.version) == version:  # the part is still the one whose failures were written
            return
        version, footer, write = None, None, store.replace
        if there is not None and (anew := PartName.parse(str(name), there.size or 0, there.version or "")):
            with suppress(ObjectMissing, ObjectChanged):
                version, footer = anew.version, read_footer(store, out, anew)


def _hash(file_name: str) -> int:
    return xxhash.xxh3_64_intdigest(file_name.encode("utf-8", "surrogatepass"))


def read_totals(
    store: Store,
    out: str,
    listed: PartTable,
    totals: Totals,
    fingerprint: str,
    seen: Callable[[PartName, PartFooter], None] | None = None,
    stop: threading.Event | None = None,
) -> Totals:
    """Add the parts of a listing that are not in `totals` yet: one range read per part, 64 at a time.

    seen: is called with each part before the part is added, in many threads. stop: if set, no further footer is read.
    Raises like `read_footer`, and `Damaged` for a part of another run; parts that were added before stay in `totals`.
    """
    missing = listed.parts(~totals.has(listed.part_keys))
    if stop is not None:
        missing = takewhile(lambda _: not stop.is_set(), missing)

    def read(name: PartName) -> tuple[PartName, PartFooter]:
        footer = read_footer(store, out, name)
        if footer.fingerprint != fingerprint:
            raise Damaged(f"masks/{name}: part of a run with other settings, copied here")
        if seen is not None:
            seen(name, footer)
        return name, footer

    for name, footer in in_order(missing, read, FOOTER_READERS):
        totals.add(name, footer)
    return totals


def write_derived(
    store: WritableStore,
    out: str,
    sources: Container[str],
    totals: Totals,
    fingerprint: str,
    min_level: int,
    listed: PartTable | None = None,
    checkpoint: Checkpoint | None = None,
    has_remaining: Callable[[PartTable], bool] | None = None,
) -> PartTable:
    """Write missing `failures/` and `class_stats.parquet`, again until no part came in between -> the parts that are in them.

    listed: parts of these sources, listed just now; None: list them. checkpoint: its sums are taken if another attempt has
    removed parts that are in `totals` or made them anew, or has counted many parts that are not in `totals`.
    has_remaining: does anything remain to be labelled? If so, parts that came in between are left to the attempt that makes the
    last part.
    """
    failures, written = FailureFiles(store, out), b""

    def list_again() -> PartTable:
        return list_planned(store, out, sources)

    for number in range(_ROUNDS):
        listed = list_again() if listed is None else listed
        if checkpoint is not None:
            listed = _begin_again(totals, checkpoint, listed, list_again)
        if totals.is_torn or not totals.is_within(listed.part_keys):
            totals.clear()
        try:
            read_totals(store, out, listed, totals, fingerprint, failures.fill)
        except (ObjectMissing, ObjectChanged):  # a part was removed or made anew after the listing
            if number == _ROUNDS - 1:
                raise
            listed = None
            continue
        data = class_stats_bytes(totals.class_stats(min_level))
        if data != written:
            store.replace(join(out, "class_stats.parquet"), data)
            written = data
        listed = list_again()
        if totals.is_exactly(listed.part_keys):
            break
        if has_remaining is not None and totals.is_within(listed.part_keys) and has_remaining(listed):
            break
    assert listed is not None
    return listed.only(totals.has(listed.part_keys))


def _begin_again(totals: Totals, checkpoint: Checkpoint, listed: PartTable, list_again: Callable[[], PartTable]) -> PartTable:
    """Replace `totals` by the sums of the checkpoint if this is cheaper than to go on -> the newest listing."""
    false = totals.is_torn or not totals.is_within(listed.part_keys)
    if false or listed.part_count - len(totals.parts) > _MANY:
        found, listed = checkpoint.load(listed, list_again)
        if found is not None and (false or len(found.parts) > len(totals.parts)):
            totals.become(found)
    return listed


def class_stats_bytes(table: pa.Table) -> bytes:
    """The bytes of `class_stats.parquet`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def read_run_json(store: Store, out: str) -> dict[str, Any] | None:
    """What `run.json` says; None if there is no file, or no whole one. Raises `NewerFormat`."""
    try:
        found = parsed_run_json(store.read(join(out, "run.json")))
    except ObjectMissing:
        return None
    if found is not None:
        require_known_format(found, "run.json")
    return found


def write_run_json(store: WritableStore, out: str, values: Mapping[str, Any]) -> None:
    """Replace `run.json`, whatever the file says."""
    store.replace(join(out, "run.json"), run_json_bytes(values))
