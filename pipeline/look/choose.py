"""Chooses rows of a run to look at: at random, the least confident, those with a class, or by name."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UsageError
from pipeline.look.part_rows import PartRows, Place
from pipeline.output.parts import PartName, PartTable
from pipeline.parallel import in_order

READERS = 16  # so many parts are read at a time
TRIES = 100  # after so many draws per wanted row a run counts as failures only

Scores = npt.NDArray[np.float64]  # (rows of a part,): the smallest scores are chosen, NaN never


@dataclass(frozen=True, slots=True)
class Where:
    """Which rows, as `--where` names them.

    kind: `random`, `least-confident`, `class` or `id`. names: one class, or the wanted values of `image_id`.
    """

    kind: str = "random"
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Where":
        """`random`, `least-confident`, `class=NAME` or `id=IMAGE_ID`. Raises `UsageError` for anything else."""
        kind, equals, name = text.partition("=")
        if (kind in ("random", "least-confident") and not equals) or (kind in ("class", "id") and name):
            return cls(kind, (name,) if equals else ())
        raise UsageError(f"--where {text}: not one of random, least-confident, class=NAME, id=IMAGE_ID")

    def __str__(self) -> str:
        return "=".join([self.kind, *([", ".join(self.names)] if self.names else [])])

    def describe(self, seed: int) -> str:
        """The choice in words, for people."""
        words = {"least-confident": "least confident first", "class": "largest share of {} first", "id": "by name"}
        return words.get(self.kind, f"at random, seed {seed}").format(*self.names)


def choose(
    parts: PartTable, reader: PartRows, where: Where, classes: Sequence[str], images: int, seed: int
) -> list[Place]:  # fmt: skip
    """Choose at most `images` rows, the best first.

    A random choice opens about one part per image. Any other choice reads one column of all rows, part by part, and holds only
    the best rows so far. Raises `UsageError` for a class that the run does not have.
    """
    if where.kind == "random":
        return list(_drawn(parts, reader, images, seed))
    if where.kind == "least-confident":
        return _smallest(parts, reader, "mean_confidence", _confidences, images)
    if where.kind == "class":
        return _smallest(parts, reader, "classes", partial(_shares, class_id=_class_id(where.names[0], classes)), images)
    return _smallest(parts, reader, "image_id", partial(_positions, wanted=where.names), images)


def _drawn(parts: PartTable, reader: PartRows, images: int, seed: int) -> Iterator[Place]:
    """Rows at random, all equally likely: positions of images are drawn, and draws that hit failures are skipped."""
    stops = np.cumsum(np.fromiter((part.rows for part in parts.parts()), np.int64, parts.part_count))
    draws = random.Random(seed).sample(range(parts.row_count), min(parts.row_count, TRIES * images))  # noqa: S311 - it repeats
    numbers = np.searchsorted(stops, draws, side="right")
    is_drawn = np.zeros(parts.part_count, np.bool_)
    is_drawn[numbers] = True
    drawn = dict(zip(np.flatnonzero(is_drawn).tolist(), parts.parts(is_drawn), strict=True))
    counts: dict[PartName, int] = {}
    for draw, number in zip(draws, numbers.tolist(), strict=True):
        part = drawn[number]
        if part not in counts:
            counts[part] = reader.count(part)
        if (row := draw - int(stops[number]) + part.rows) < counts[part]:  # a part's first positions are masks, then failures
            yield Place(part, row)
            images -= 1
        if not images:
            return


def _smallest(parts: PartTable, reader: PartRows, column: str, score: Callable[[pa.Array], Scores], images: int) -> list[Place]:
    def scored(part: PartName) -> tuple[PartName, Scores]:
        return part, score(reader.columns(part, [column]).column(column).combine_chunks())

    best: list[tuple[float, Place]] = []
    for part, scores in in_order(parts.parts(), scored, READERS):
        limit = best[-1][0] if len(best) == images else np.inf
        rows = np.flatnonzero(scores <= limit).tolist()
        best = nsmallest(images, chain(best, ((float(scores[row]), Place(part, row)) for row in rows)))
    return [place for _, place in best]


def _confidences(column: pa.Array) -> Scores:
    return np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan))


def _shares(column: pa.Array, *, class_id: int) -> Scores:
    """Minus the fraction of each image that has this class; NaN without the class."""
    scores = np.full(len(column), np.nan)
    entries, rows = pc.list_flatten(column), np.asarray(pc.list_parent_indices(column))
    found = np.asarray(pc.equal(pc.struct_field(entries, "class_id"), class_id).fill_null(False))
    scores[rows[found]] = -np.asarray(pc.struct_field(entries, "fraction").cast(pa.float64()))[found]
    return scores


def _positions(column: pa.Array, *, wanted: Sequence[str]) -> Scores:
    places = pc.index_in(column, pa.array(wanted, pa.string()))
    return np.asarray(pc.fill_null(places.cast(pa.float64()), np.nan))


def _class_id(name: str, classes: Sequence[str]) -> int:
    if name in classes:
        return classes.index(name)
    known = ", ".join(classes[:40]) + (", …" if len(classes) > 40 else "")
    raise UsageError(f"--where class={name}: not a class of this run, whose classes are {known}")
