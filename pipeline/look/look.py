"""`look`: some rows of a run as one picture. Of rows that are not shown, at most one column is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipeline.api.opened import Run, open_run
from pipeline.errors import NotReachable, StorageError
from pipeline.look.choose import TRIES, Where, choose
from pipeline.look.part_rows import PartRows
from pipeline.look.sheet import draw_sheet
from pipeline.look.tiles import Reader, Tile, tile_of
from pipeline.output.parts import PartTable
from pipeline.storage import base_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The chosen rows, ready to be drawn.

    images: how many images the run has so far, masks and failures. seed: of a random choice.
    """

    uri: str
    state: str
    images: int
    where: Where
    seed: int
    tiles: tuple[Tile, ...]

    @property
    def summary(self) -> str:
        """One line, such as `12 of 1,000 images, least confident first`."""
        text = f"{len(self.tiles):,} of {self.images:,} images, {self.where.describe(self.seed)}"
        return text if self.state == "complete" else f"{text}; the run is {self.state}"

    def sheet(self, notes: Sequence[str] = ()) -> Image.Image:
        """One picture of all tiles, RGB. Its title is the last name of the run's URI, so the picture shows no path."""
        return draw_sheet(self.tiles, base_name(self.uri), self.summary, notes)

    def as_json(self) -> dict[str, Any]:
        """For `--json`: what the sheet shows, as numbers."""
        return {
            "output": self.uri, "state": self.state, "images": self.images, "where": str(self.where), "seed": self.seed,
            "shown": [_tile_as_json(tile) for tile in self.tiles],
        }  # fmt: skip


def _tile_as_json(tile: Tile) -> dict[str, Any]:
    classes = [
        {"class_id": found.class_id, "name": found.name, "fraction": found.share, "mean_confidence": found.confidence}
        for found in tile.classes
    ]
    return {
        "image_id": tile.image_id, "shard": tile.shard, "index": tile.index, "width": tile.size[0], "height": tile.size[1],
        "mean_confidence": tile.mean_confidence, "ignored_fraction": tile.ignored, "classes": classes,
        "problem": tile.detail or None,
    }  # fmt: skip


def look(out: str, where: Where, *, images: int = 12, seed: int = 0) -> Look:
    """Choose at most `images` rows of the run at `out`, and read their photographs.

    If a photograph cannot be read, its tile says why. Raises `NotReachable` if there is no run, or no row to show,
    `UsageError` for a class that the run does not have, and `Damaged` for a part that cannot be read.
    """
    run = open_run(out)
    try:
        return _look(run, where, images, seed)
    except StorageError as error:
        raise NotReachable(str(error)) from error


def _look(run: Run, where: Where, images: int, seed: int) -> Look:
    labels, shape, parts = run.view.settings["labels"], run.view.settings["shape"], run.view.parts()
    reader = PartRows(run.view.store, run.uri, bool(shape["confidence_map"]))
    places = choose(parts, reader, where, labels["classes"], images, seed)
    if not places:
        raise NotReachable(f"{run.uri}: {_nothing(run, parts, where, images)}")
    rows = reader.rows(places)
    photographs = Reader(run.photographs)
    background = 0 if labels["classes"][0].strip("_") == "background" else None
    tiles = (
        tile_of(rows[place], photographs, background=background, max_source_pixels=shape["max_source_pixels"]) for place in places
    )
    return Look(
        uri=run.uri, state=str(run.info.get("state")), images=parts.row_count, where=where, seed=seed,
        tiles=tuple(_in_order(tiles, where)),
    )  # fmt: skip


def _in_order(tiles: Iterator[Tile], where: Where) -> Iterator[Tile]:
    """Random tiles in the order of the input; other tiles as they were chosen."""
    if where.kind == "random":
        return iter(sorted(tiles, key=lambda tile: (tile.shard, tile.index)))
    return tiles


def _nothing(run: Run, parts: PartTable, where: Where, images: int) -> str:
    """Why there is no row to show."""
    if not parts.row_count:
        return "nothing is labelled yet: run the same segment command again"
    masks = run.info.get("counts", {}).get("masks")
    if masks == 0:
        errors = ", ".join(f"{count} {name}" for name, count in run.info.get("errors", {}).items())
        return f"no image was labelled, {parts.row_count:,} failed ({errors}): failures/ says why"
    if where.kind == "random":
        return f"{min(parts.row_count, TRIES * images):,} images were drawn and all of them are failures: failures/ says why"
    if where.kind == "least-confident":
        return "no row has a confidence"
    return f"no image has the class {where.names[0]}" if where.kind == "class" else f"no image is named {where.names[0]}"
