"""Exact sums over the footers of parts, in any order, with the set of these parts."""

import threading
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.labels.statistics import LEVELS
from pipeline.output.footer import PartFooter
from pipeline.output.parts import Bools, Keys, PartName
from pipeline.schema import CLASS_STATS

_LOOSE = 50_000  # so many parts are held in a dict before they are merged into the arrays

Counts = npt.NDArray[np.uint32]


class PartSet:
    """Keys of parts, each with its number of masks and failures: 16 bytes per part."""

    def __init__(self, keys: Keys | None = None, counts: Counts | None = None) -> None:
        """keys: uint64 (N,), ascending, without duplicates. counts: uint32 (N, 2), masks and failures per part."""
        self._keys = np.empty(0, np.uint64) if keys is None else keys
        self._counts = np.empty((0, 2), np.uint32) if counts is None else counts
        self._loose: dict[int, tuple[int, int]] = {}  # not in the arrays yet
        self._gone: set[int] = set()  # removed, but still in the arrays

    def __len__(self) -> int:
        return len(self._keys) + len(self._loose) - len(self._gone)

    def __contains__(self, key: int) -> bool:
        return key in self._loose or (key not in self._gone and self._is_in_arrays(key))

    def _is_in_arrays(self, key: int) -> bool:
        at = int(np.searchsorted(self._keys, np.uint64(key)))
        return at < len(self._keys) and int(self._keys[at]) == key

    def add(self, key: int, masks: int, failures: int) -> None:
        """Add a part that is not in the set."""
        if key in self._gone:  # an equal key means an equal object
            self._gone.remove(key)
            return
        self._loose[key] = masks, failures
        if len(self._loose) >= _LOOSE:
            self.arrays()

    def remove(self, key: int) -> None:
        """Remove a part that is in the set."""
        if self._loose.pop(key, None) is None:
            assert self._is_in_arrays(key)
            self._gone.add(key)

    def arrays(self) -> tuple[Keys, Counts]:
        """Keys, uint64 (N,), ascending; masks and failures per part, uint32 (N, 2). These arrays never change later."""
        keys, counts, loose, gone = self._keys, self._counts, dict[int, tuple[int, int]](), set[int]()
        if self._gone:
            stays = ~is_among(keys, np.sort(np.fromiter(self._gone, np.uint64, len(self._gone))))
            keys, counts = keys[stays], counts[stays]
        if self._loose:
            keys = np.concatenate([keys, np.fromiter(self._loose, np.uint64, len(self._loose))])
            counts = np.concatenate([counts, np.array(list(self._loose.values()), np.uint32)])
            order = np.argsort(keys, kind="stable")
            keys, counts = keys[order], counts[order]
        self._keys, self._counts, self._loose, self._gone = keys, counts, loose, gone  # no call: no signal handler in between
        return keys, counts

    def has(self, keys: Keys) -> Bools:
        """Which of these keys are in the set? bool (N,)."""
        mine, _ = self.arrays()
        return is_among(keys, mine)

    def counts_of(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Masks and failures per key, int64 (N, 2); -1 for keys that are not in the set."""
        mine, counts = self.arrays()
        found = np.full((len(keys), 2), -1, np.int64)
        there = is_among(keys, mine)
        found[there] = counts[np.searchsorted(mine, keys[there])]
        return found


def is_among(keys: Keys, ascending: Keys) -> Bools:
    """Which of `keys` are in `ascending` too? bool (N,), N the length of `keys`."""
    if not len(ascending):
        return np.zeros(len(keys), np.bool_)
    at = np.minimum(np.searchsorted(ascending, keys), len(ascending) - 1)
    return np.asarray(ascending[at] == keys, np.bool_)


@dataclass(slots=True)
class Totals:
    """Sums over the footers of `parts`. Parts are added and removed exactly, in any order.

    torn: is a change unfinished? If a signal or an error cut a change short, the sums are wrong until they `become` others.
    histograms: int64 (C, 256). images_by_class, pixels_by_class: int64 (C,). digest: modulo 2**256.
    """

    classes: tuple[str, ...]
    parts: PartSet = field(default_factory=PartSet)
    images: int = 0
    masks: int = 0
    failures: int = 0
    broken_shards: int = 0
    pixels: int = 0
    digest: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    torn: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    histograms: npt.NDArray[np.int64] = field(init=False)
    images_by_class: npt.NDArray[np.int64] = field(init=False)
    pixels_by_class: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.classes)
        self.histograms = np.zeros((count, LEVELS), np.int64)
        self.images_by_class = np.zeros(count, np.int64)
        self.pixels_by_class = np.zeros(count, np.int64)

    def become(self, other: "Totals") -> None:
        """Take over all sums of `other`, which must not be used any more."""
        with self.lock:
            self.torn = True
            for name in _SUMS:
                setattr(self, name, getattr(other, name))
            self.torn = other.torn

    @property
    def is_torn(self) -> bool:
        """Are the sums torn? Thread-safe: waits until no other thread is in the middle of a change."""
        with self.lock:
            return self.torn

    def clear(self) -> None:
        """Begin anew, without parts."""
        self.become(Totals(self.classes))

    def add(self, name: PartName, footer: PartFooter) -> None:
        """Add one part, unless the sums hold it already. Thread-safe."""
        key = name.key
        with self.lock:
            if key not in self.parts:
                before, self.torn = self.torn, True
                self._add(footer, 1)
                self.parts.add(key, footer.masks, len(footer.failures))
                self.torn = before

    def remove(self, name: PartName, footer: PartFooter) -> bool:
        """Remove one part -> whether the sums held it. Thread-safe."""
        key = name.key
        with self.lock:
            if key not in self.parts:
                return False
            before, self.torn = self.torn, True
            self._add(footer, -1)
            self.parts.remove(key)
            self.torn = before
            return True

    def _add(self, footer: PartFooter, times: int) -> None:
        self.images += times * (footer.masks + len(footer.failures))
        self.masks += times * footer.masks
        self.failures += times * len(footer.failures)
        self.broken_shards += times * footer.broken
        self.pixels += times * footer.pixels
        self.digest = (self.digest + times * int(footer.digest, 16)) % (1 << 256)
        for failure in footer.failures:
            self.errors[failure.error] += times
        self.errors = +self.errors  # drops classes whose count is 0
        self.histograms += times * footer.histograms
        self.images_by_class += times * np.asarray(footer.images_by_class, np.int64)
        self.pixels_by_class += times * np.asarray(footer.pixels_by_class, np.int64)

    def sums(self) -> "Totals":
        """A copy that no other thread changes."""
        with self.lock:
            copy = Totals(self.classes)
            for name in _SUMS:
                setattr(copy, name, getattr(self, name))
            copy.torn = self.torn
            copy.parts = PartSet(*self.parts.arrays())
            copy.errors = self.errors.copy()
            copy.histograms = self.histograms.copy()
            copy.images_by_class, copy.pixels_by_class = self.images_by_class.copy(), self.pixels_by_class.copy()
            return copy

    def is_same(self, other: "Totals") -> bool:
        """Are all sums equal, and all parts with their masks and failures?"""
        (keys, counts), (other_keys, other_counts) = self.sums().parts.arrays(), other.sums().parts.arrays()
        return self.same_sums(other) and np.array_equal(keys, other_keys) and np.array_equal(counts, other_counts)

    def same_sums(self, other: "Totals") -> bool:
        """Are all sums equal? The parts are not compared."""
        plain = ("images", "masks", "failures", "broken_shards", "pixels", "digest", "errors")
        arrays = ("histograms", "images_by_class", "pixels_by_class")
        return all(getattr(self, name) == getattr(other, name) for name in plain) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays
        )

    def has(self, keys: Keys) -> Bools:
        """Which of these parts are in the sums? keys: uint64 (N,) -> bool (N,). Thread-safe."""
        with self.lock:
            return self.parts.has(keys)

    def counts_of(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Masks and failures of these parts, int64 (N, 2); -1 for parts that are not in the sums. Thread-safe."""
        with self.lock:
            return self.parts.counts_of(keys)

    def is_within(self, keys: Keys) -> bool:
        """Are all parts of the sums among these? Thread-safe."""
        with self.lock:
            mine, _ = self.parts.arrays()
        return bool(is_among(mine, np.sort(keys)).all())

    def is_exactly(self, keys: Keys) -> bool:
        """Are the parts of the sums exactly these? keys: without duplicates. Thread-safe."""
        with self.lock:
            count = len(self.parts)
        return count == len(keys) and self.is_within(keys)

    @property
    def labels_digest(self) -> str:
        """`digest` as 64 hex digits."""
        return f"{self.digest:064x}"

    def class_stats(self, min_level: int) -> pa.Table:
        """One row per class of the run. min_level: the least confidence (uint8) that a mask keeps."""
        kept = self.histograms[:, min_level:]
        sums = (kept * np.arange(min_level, LEVELS)).sum(axis=1).tolist()
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


_SUMS = (
    "parts", "images", "masks", "failures", "broken_shards", "pixels", "digest", "errors", "histograms", "images_by_class",
    "pixels_by_class",
)  # fmt: skip
