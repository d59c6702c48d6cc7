"""Parts -> run.json, failures/ and class_stats.parquet: derived, and can be made again at any time."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ObjectMissing
from pipeline.labels.statistics import LEVELS
from pipeline.run.footer import PartFooter, failures_bytes, read_footer
from pipeline.run.identity import require_known_format
from pipeline.run.parts import PartName, list_parts
from pipeline.run.run_json import parsed_run_json, run_json_bytes
from pipeline.schema import CLASS_STATS
from pipeline.storage import Store, WritableStore, join

FOOTER_READERS = 16
_ROUNDS = 20  # of writing derived files while other attempts still commit


@dataclass(slots=True)
class Totals:
    """Sums over the footers of parts; `parts` are those that are in it, by name and size. Merging is exact and order-free."""

    classes: tuple[str, ...]
    parts: set[tuple[str, int]] = field(default_factory=set)
    images: int = 0
    masks: int = 0
    failures: int = 0
    broken_shards: int = 0
    pixels: int = 0
    digest: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    histograms: npt.NDArray[np.int64] = field(init=False)
    images_by_class: npt.NDArray[np.int64] = field(init=False)
    pixels_by_class: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.classes)
        self.histograms = np.zeros((count, LEVELS), np.int64)
        self.images_by_class = np.zeros(count, np.int64)
        self.pixels_by_class = np.zeros(count, np.int64)

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self.parts.clear()
            self.errors.clear()
            self.images = self.masks = self.failures = self.broken_shards = self.pixels = self.digest = 0
            self.__post_init__()

    def add(self, name: PartName, footer: PartFooter) -> None:
        """Take one part in; a part that is in already is not taken twice. Safe in threads."""
        with self._lock:
            if name.file not in self.parts:
                self.parts.add(name.file)
                self._add(footer)

    def _add(self, footer: PartFooter) -> None:
        self.images += footer.masks + len(footer.failures)
        self.masks += footer.masks
        self.failures += len(footer.failures)
        self.broken_shards += footer.broken
        self.pixels += footer.pixels
        self.digest = (self.digest + int(footer.digest, 16)) % (1 << 256)
        self.errors.update(failure.error for failure in footer.failures)
        self.histograms += footer.histograms
        self.images_by_class += np.asarray(footer.images_by_class, np.int64)
        self.pixels_by_class += np.asarray(footer.pixels_by_class, np.int64)

    @property
    def labels_digest(self) -> str:
        """64 hex digits."""
        return f"{self.digest:064x}"

    def class_stats(self, least: int) -> pa.Table:
        """One row a class of the run; `least` is the least confidence (uint8) that a mask keeps."""
        kept = self.histograms[:, least:]
        sums = (kept * np.arange(least, LEVELS)).sum(axis=1).tolist()
        pixels = self.pixels_by_class.tolist()
        return pa.table(
            {
                "class_id": list(range(len(self.classes))),
                "name": list(self.classes),
                "images": self.images_by_class.tolist(),
                "pixels": pixels,
                "fraction": [count / self.pixels if self.pixels else 0.0 for count in pixels],
                "mean_confidence": [total / (255 * count) if count else None for total, count in zip(sums, pixels, strict=True)],
                "confidence_histogram": self.histograms.tolist(),
            },
            schema=CLASS_STATS,
        )


def read_totals(
    store: WritableStore,
    out: str,
    names: Iterable[PartName],
    totals: Totals,
    seen: Callable[[PartName, PartFooter], None] | None = None,
) -> Totals:
    """Add the parts that are not in `totals` yet, by one range read each, 16 at a time."""
    missing = [name for name in names if name.file not in totals.parts]
    with ThreadPoolExecutor(FOOTER_READERS, "footers") as threads:
        for name, footer in zip(missing, threads.map(lambda name: read_footer(store, out, name), missing), strict=True):
            totals.add(name, footer)
            if seen is not None:
                seen(name, footer)
    return totals


def fill_failures(store: WritableStore, out: str) -> Callable[[PartName, PartFooter], None]:
    """What makes `failures/<part>` again where a worker died between its part and that."""
    have = set(store.names(join(out, "failures") + "/"))

    def fill(name: PartName, footer: PartFooter) -> None:
        if footer.failures and str(name) not in have:
            store.replace(join(out, "failures", str(name)), failures_bytes(footer))

    return fill


def write_derived(store: WritableStore, out: str, sources: set[str], totals: Totals, least: int) -> dict[str, list[PartName]]:
    """Missing `failures/` and `class_stats.parquet`, until no part came in between; -> the parts that are in them.

    Parts of sources that the plan no longer names are left out, and counted nowhere.
    """
    for _ in range(_ROUNDS):
        listed = {source: parts for source, parts in list_parts(store, out).items() if source in sources}
        names = [name for parts in listed.values() for name in parts]
        if not totals.parts <= {name.file for name in names}:
            totals.clear()  # a part has been removed: replaced by another attempt, or repaired
        read_totals(store, out, names, totals, fill_failures(store, out))
        store.replace(join(out, "class_stats.parquet"), class_stats_bytes(totals.class_stats(least)))
        again = list_parts(store, out).items()
        if {name.file for source, parts in again if source in sources for name in parts} == totals.parts:
            return listed
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
