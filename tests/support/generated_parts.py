"""Parts that are generated on request: names, sizes and ETags of a listing, valid footers, and the sums over them."""

import hashlib
import json
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.labels.statistics import LEVELS
from pipeline.output.footer import Failure, PartFooter, footer_length, part_bytes
from pipeline.output.parts import PartName, source_digest
from pipeline.shards.base import Cursor
from pipeline.sums.totals import PartSet, Totals

PARTS_A_SHARD = 40  # of 256 images each: about as many images as img2dataset puts into a tar
PART_IMAGES = 256
SHARD_BYTES = 100_000_000
_FAILS_EVERY = 20  # one of so many parts has a failure
_UNIT = 2 * (PART_IMAGES + 1)
_BYTES = 1_600 * _UNIT  # bytes of a part with masks of 3,200 bytes
_MODULUS = 0x9E3779B97F4A7C15F39CC0605CEDC835  # odd, so that every number has another ETag


def shard_etag(number: int) -> str:
    """The ETag of a generated shard: 32 hex digits."""
    return f"{number * _MODULUS % (1 << 128):032x}"


@dataclass(frozen=True)
class GeneratedParts:
    """All parts of `count / PARTS_A_SHARD` shards, in the order of a listing by name.

    All parts have equal histograms, each has another share of the digest, and every twentieth has a failure.
    """

    count: int
    bucket: str
    prefix: str
    fingerprint: str
    classes: tuple[str, ...]

    @property
    def shards(self) -> int:
        """The number of shards. The last shard may have fewer parts than the others."""
        return -(-self.count // PARTS_A_SHARD)

    @cached_property
    def _sources(self) -> list[tuple[str, int]]:
        """The digest and number of each shard, sorted by digest."""
        return sorted((source_digest(*self._identity(number)), number) for number in range(self.shards))

    def _identity(self, shard: int) -> tuple[str, int, str]:
        """URI, size and version of a shard."""
        return f"s3://{self.bucket}/{self.prefix}{shard:07d}.tar", SHARD_BYTES + shard, f"etag:{shard_etag(shard)}"

    def _at(self, source: str) -> int:
        """The place of a source in `_sources`, or the place at which it would stand."""
        return bisect_left(self._sources, (source, -1))

    @cached_property
    def _first_of(self) -> npt.NDArray[np.int64]:
        """How many parts come before each source in the listing, int64 (S + 1,)."""
        sizes = [min(PARTS_A_SHARD, self.count - number * PARTS_A_SHARD) for _, number in self._sources]
        return np.cumsum([0, *sizes], dtype=np.int64)

    def part(self, place: int) -> PartName:
        """The part at `place` in the listing."""
        at = int(np.searchsorted(self._first_of, place, side="right")) - 1
        source, _ = self._sources[at]
        number, last = place - int(self._first_of[at]), place + 1 == int(self._first_of[at + 1])
        etag = f"etag:{place * _MODULUS % (1 << 128):032x}"
        return PartName(source, PART_IMAGES * number, PART_IMAGES, last, PART_IMAGES, _BYTES + 2 * PART_IMAGES + last, etag)

    def range_of(self, beginning: str) -> range:
        """Places of the parts whose names begin so. Of `beginning` at most the 24 digits of a source's digest are used."""
        first, stop = self._at(beginning[:24]), self._at(beginning[:24] + "g")
        return range(int(self._first_of[first]), int(self._first_of[stop]))

    def place_of(self, file_name: str) -> int | None:
        """The place of the part with this name; None if no part has this name."""
        name = PartName.parse(file_name, 0)
        if name is None:
            return None
        place = int(self._first_of[min(self._at(name.source), self.shards - 1)]) + name.first // PART_IMAGES
        return place if place < self.count and str(self.part(place)) == file_name else None

    def footer(self, place: int) -> PartFooter:
        """The footer of a part. All values that readers of footers use are valid."""
        name, histograms = self.part(place), _histograms(len(self.classes))
        uri, size, version = self._identity(self._sources[self._at(name.source)][1])
        failed = Failure("0", uri, name.first, "decode", "CorruptImage", "made up", 7)
        failures = (failed,) if place % _FAILS_EVERY == 0 else ()
        return PartFooter(
            fingerprint=self.fingerprint, source={"uri": uri, "size": size, "version": version},
            first=name.first, rows=name.rows, last=name.last, masks=name.rows - len(failures), broken=False, failures=failures,
            histograms=histograms, images_by_class=(PART_IMAGES // 2,) * len(self.classes),
            pixels_by_class=tuple(histograms.sum(axis=1).tolist()), pixels=int(histograms.sum()),
            digest=f"{place + 1:064x}", after=Cursor(name.stop, 512 * name.stop), part_images=PART_IMAGES,
        )  # fmt: skip

    def end_of(self, place: int) -> bytes:
        """The end of a part's Parquet file, from its footer on. All bytes before count as zeros."""
        data = part_bytes([], self.footer(place), confidence_map=False)
        return data[len(data) - footer_length(data) :]

    def totals(self, stop: int) -> Totals:
        """The sums of the first `stop` parts of the listing, computed without their footers."""
        histograms, failing = _histograms(len(self.classes)), -(-stop // _FAILS_EVERY)
        keys = np.fromiter((self.part(place).key for place in range(stop)), np.uint64, stop)
        counts = np.zeros((stop, 2), np.uint32)
        counts[::_FAILS_EVERY, 1] = 1
        counts[:, 0] = PART_IMAGES - counts[:, 1]
        order = np.argsort(keys)
        totals = Totals(self.classes, parts=PartSet(keys[order], counts[order]))
        totals.images, totals.failures, totals.pixels = PART_IMAGES * stop, failing, int(histograms.sum()) * stop
        totals.masks, totals.digest = totals.images - failing, stop * (stop + 1) // 2
        totals.errors.update({"CorruptImage": failing} if failing else {})
        totals.histograms = histograms * stop
        totals.images_by_class = np.full(len(self.classes), PART_IMAGES // 2 * stop, np.int64)
        totals.pixels_by_class = totals.histograms.sum(axis=1)
        return totals

    def to_json(self) -> str:
        """The parameters as JSON, for the server's process."""
        return json.dumps([self.count, self.bucket, self.prefix, self.fingerprint, self.classes])

    @classmethod
    def from_json(cls, text: str) -> "GeneratedParts":
        """Read what `to_json` wrote."""
        count, bucket, prefix, fingerprint, classes = json.loads(text)
        return cls(count, bucket, prefix, fingerprint, tuple(classes))


@lru_cache
def _histograms(classes: int) -> npt.NDArray[np.int64]:
    """Histograms like those of 256 photographs, int64 (C, 256): about half of the levels in use, with realistic counts."""
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(b"histograms").digest()[:4], "big"))
    height = random.lognormal(6, 2, (classes, 1)) * np.exp(-np.abs(np.arange(LEVELS) - 200) / 40)
    return random.poisson(height).astype(np.int64)
