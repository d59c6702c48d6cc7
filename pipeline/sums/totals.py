"""Sums over the footers of parts: exact, in any order, and of which parts they are."""

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

_LOOSE = 50_000  # parts in a dict, before they are merged into the arrays

Counts = npt.NDArray[np.uint32]


class PartSet:
    """Keys of parts, each with its masks and failures: 16 bytes a part."""

    def __init__(self, keys: Keys | None = None, counts: Counts | None = None) -> None:
        """keys: uint64 (N,), ascending, each once. counts: uint32 (N, 2), masks and failures of each."""
        self._keys = np.empty(0, np.uint64) if keys is None else keys
        self._counts = np.empty((0, 2), np.uint32) if counts is None else counts
        self._loose: dict[int, tuple[int, int]] = {}  # not in the arrays yet
        self._gone: set[int] = set()  # still in the arrays

    def __len__(self) -> int:
        return len(self._keys) + len(self._loose) - len(self._gone)

    def __contains__(self, key: int) -> bool:
        return key in self._loose or (key not in self._gone and self._is_in_arrays(key))

    def _is_in_arrays(self, key: int) -> bool:
        at = int(np.searchsorted(self._keys, np.uint64(key)))
        return at < len(self._keys) and int(self._keys[at]) == key

    def add(self, key: int, masks: int, failures: int) -> None:
        """A part that is not in it."""
        if key in self._gone:  # the same object, then
            self._gone.remove(key)
            return
        self._loose[key] = masks, failures
        if len(self._loose) >= _LOOSE:
            self.arrays()

    def remove(self, key: int) -> None:
        """A part that is in it."""
        if self._loose.pop(key, None) is None:
            assert self._is_in_arrays(key)
            self._gone.add(key)

    def arrays(self) -> tuple[Keys, Counts]:
        """Keys, uint64 (N,), ascending; masks and failures of each, uint32 (N, 2). They are not changed later, but replaced."""
        keys, counts, loose, gone = self._keys, self._counts, dict[int, tuple[int, int]](), set[int]()
        if self._gone:
            stays = ~is_among(keys, np.sort(np.fromiter(self._gone, np.uint64, len(self._gone))))
            keys, counts = keys[stays], counts[stays]
        if self._loose:
            keys = np.concatenate([keys, np.fromiter(self._loose, np.uint64, len(self._loose))])
            counts = np.concatenate([counts, np.array(list(self._loose.values()), np.uint32)])
            order = np.argsort(keys, kind="stable")
            keys, counts = keys[order], counts[order]
        self._keys, self._counts, self._loose, self._gone = keys, counts, loose, gone  # no call in between: no signal is heard
        return keys, counts

    def has(self, keys: Keys) -> Bools:
        """Which of these are in it? bool, as long as `keys`."""
        mine, _ = self.arrays()
        return is_among(keys, mine)

    def counts_of(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Masks and failures of each, int64 (N, 2); -1 for those that are not in it."""
        mine, counts = self.arrays()
        found = np.full((len(keys), 2), -1, np.int64)
        there = is_among(keys, mine)
        found[there] = counts[np.searchsorted(mine, keys[there])]
        return found


def is_among(keys: Keys, ascending: Keys) -> Bools:
    """Which of `keys` are there too? bool, as long as `keys`."""
    if not len(ascending):
        return np.zeros(len(keys), np.bool_)
    at = np.minimum(np.searchsorted(ascending, keys), len(ascending) - 1)
    return np.asarray(ascending[at] == keys, np.bool_)


@dataclass(slots=True)
class Totals:
    """Sums over the footers of parts; `parts` are those that are in it. Adding and taking away is exact, in any order.

    torn: is a change not at its end? If a signal or an error broke it off, they are sums of no parts until they `become` others.
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
        """Forget what is in it, and be what `other` is; that one must not be used any more."""
        with self.lock:
            self.torn = True
            for name in _SUMS:
                setattr(self, name, getattr(other, name))
            self.torn = other.torn

    @property
    def is_torn(self) -> bool:
        """Are they sums of no parts? Safe in threads: none is in the middle of a change."""
        with self.lock:
            return self.torn

    def clear(self) -> None:
        """Begin anew."""
        self.become(Totals(self.classes))

    def add(self, name: PartName, footer: PartFooter) -> None:
        """Take one part in; a part that is in already is not taken twice. Safe in threads."""
        key = name.key
        with self.lock:
            if key not in self.parts:
                before, self.torn = self.torn, True
                self._add(footer, 1)
                self.parts.add(key, footer.masks, len(footer.failures))
                self.torn = before

    def remove(self, name: PartName, footer: PartFooter) -> bool:
        """Take one part away again, if it is in. Safe in threads."""
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
        self.errors = +self.errors  # without those of which none is left
        self.histograms += times * footer.histograms
        self.images_by_class += times * np.asarray(footer.images_by_class, np.int64)
        self.pixels_by_class += times * np.asarray(footer.pixels_by_class, np.int64)

    def sums(self) -> "Totals":
        """A copy that nobody else changes."""
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
        """Are all sums equal, and the parts, each with its masks and failures?"""
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
        """Which of these parts are in it? bool, as long as `keys`. Safe in threads."""
        with self.lock:
            return self.parts.has(keys)

    def counts_of(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Masks and failures of these parts, int64 (N, 2); -1 for those that are not in it. Safe in threads."""
        with self.lock:
            return self.parts.counts_of(keys)

    def is_within(self, keys: Keys) -> bool:
        """Are all of its parts among these? Safe in threads."""
        with self.lock:
            mine, _ = self.parts.arrays()
        return bool(is_among(mine, np.sort(keys)).all())

    def is_exactly(self, keys: Keys) -> bool:
        """Are its parts these, each of which is there once? Safe in threads."""
        with self.lock:
            count = len(self.parts)
        return count == len(keys) and self.is_within(keys)

    @property
    def labels_digest(self) -> str:
        """64 hex digits."""
        return f"{self.digest:064x}"

    def class_stats(self, min_level: int) -> pa.Table:
        """One row a class of the run; `least` is the least confidence (uint8) that a mask keeps."""
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
