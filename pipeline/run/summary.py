"""Parts -> run.json, failures/ and class_stats.parquet: derived, and can be made again at any time."""

import threading
from collections.abc import Callable, Container, Mapping
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.errors import ObjectChanged, ObjectMissing
from pipeline.run.checkpoint import Checkpoint
from pipeline.run.footer import PartFooter, failures_bytes, read_footer
from pipeline.run.identity import require_known_format
from pipeline.run.parts import PartName, PartTable, list_parts
from pipeline.run.run_json import parsed_run_json, run_json_bytes
from pipeline.run.totals import Totals, is_among
from pipeline.storage import Store, WritableStore, join
from pipeline.storage.parallel import in_order

FOOTER_READERS = 64
_ROUNDS = 20  # of writing derived files while other attempts still commit


class FailureFiles:
    """`failures/` as far as an attempt has to know it: listed once, and only if a part that was read has failures."""

    def __init__(self, store: WritableStore, out: str) -> None:
        self._store, self._folder = store, join(out, "failures")
        self._there: npt.NDArray[np.uint64] | None = None

    def fill(self, name: PartName, footer: PartFooter) -> None:
        """Make `failures/<part>` again if a worker died between its part and that."""
        if not footer.failures:
            return
        if self._there is None:
            names = self._store.names(self._folder + "/")
            self._there = np.sort(np.fromiter((_hash(file_name) for file_name in names), np.uint64))
        if not is_among(np.array([_hash(str(name))], np.uint64), self._there)[0]:
            self._store.replace(join(self._folder, str(name)), failures_bytes(footer))


def _hash(file_name: str) -> int:
    return xxhash.xxh3_64_intdigest(file_name.encode("utf-8", "surrogatepass"))


def read_totals(
    store: Store,
    out: str,
    listed: PartTable,
    totals: Totals,
    seen: Callable[[PartName, PartFooter], None] | None = None,
    stop: threading.Event | None = None,
) -> Totals:
    """Add the parts of a listing that are not in `totals` yet, by one range read each, 64 at a time.

    seen: is called for each before it is added. stop: read no more once it is set. Raises as `read_footer`; what was read
    before that stays in.
    """
    missing = listed.parts(~totals.has(listed.part_keys))
    if stop is not None:
        missing = takewhile(lambda _: not stop.is_set(), missing)

    def read(name: PartName) -> tuple[PartName, PartFooter]:
        return name, read_footer(store, out, name)

    for name, footer in in_order(missing, read, FOOTER_READERS):
        if seen is not None:
            seen(name, footer)
        totals.add(name, footer)
    return totals


def list_planned(store: Store, out: str, sources: Container[str]) -> PartTable:
    """The committed parts of these sources: one listing. Parts of sources that a plan no longer names count nowhere."""
    listed = list_parts(store, out)
    return listed.only(listed.of(sources))


def write_derived(
    store: WritableStore,
    out: str,
    sources: Container[str],
    totals: Totals,
    least: int,
    listed: PartTable | None = None,
    checkpoint: Checkpoint | None = None,
) -> PartTable:
    """Missing `failures/` and `class_stats.parquet`, until no part came in between; -> the parts that are in them.

    listed: parts of these sources, listed just now; only what has come since is listed again. checkpoint: where to begin if
    another attempt has removed parts, or made some anew, that are in `totals`.
    """
    failures, written = FailureFiles(store, out), b""
    for number in range(_ROUNDS):
        listed = list_planned(store, out, sources) if listed is None else listed
        if not totals.is_within(listed.part_keys):
            totals.become((checkpoint.load(listed) if checkpoint else None) or Totals(totals.classes))
        try:
            read_totals(store, out, listed, totals, failures.fill)
        except (ObjectMissing, ObjectChanged):  # removed or made anew since it was listed
            if number == _ROUNDS - 1:
                raise
            listed = None
            continue
        data = class_stats_bytes(totals.class_stats(least))
        if data != written:
            store.replace(join(out, "class_stats.parquet"), data)
            written = data
        listed = list_planned(store, out, sources)
        if totals.is_exactly(listed.part_keys):
            break
    assert listed is not None
    return listed


def class_stats_bytes(table: pa.Table) -> bytes:
    """The file `class_stats.parquet`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def read_run_json(store: Store, out: str) -> dict[str, Any] | None:
    """What `run.json` says, or None if there is none, or half of one. Raises `NewerFormat`."""
    try:
        found = parsed_run_json(store.read(join(out, "run.json")))
    except ObjectMissing:
        return None
    if found is not None:
        require_known_format(found, "run.json")
    return found


def write_run_json(store: WritableStore, out: str, values: Mapping[str, Any]) -> None:
    """Write `run.json`, whole, over whatever is there."""
    store.replace(join(out, "run.json"), run_json_bytes(values))
