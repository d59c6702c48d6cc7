"""Runs the real job inside the test's process, on the session's Ray, and reads its output."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.config import SegmentConfig
from pipeline.driver.attempt import Attempt, Outcome
from pipeline.driver.progress import Progress
from pipeline.output.parts import PartName, list_parts
from pipeline.storage.local import LocalStore
from tests.support.tars import photos, tar_bytes

SHORT_SIDE = 64


def segment(source: object, out: object, **flags: Any) -> Outcome:
    """One attempt with the bundled weights at a small size, and one worker: each worker takes 3 s of CPU to start."""
    inputs = tuple(map(str, source)) if isinstance(source, list | tuple) else (str(source),)
    values: dict[str, Any] = {"weights": "bundled", "short_side": SHORT_SIDE, "part_images": 4, "workers": 1} | flags
    return Attempt(SegmentConfig(input=inputs, output=str(out), **values), Progress()).run()


def write_tars(folder: Path, shards: int, images: int, *, first: int = 0) -> Path:
    """Write shards of different small photographs: `shard-NNN.tar` -> the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + shards):
        (folder / f"shard-{number:03d}.tar").write_bytes(tar_bytes(photos(images, first=1 + number * images)))
    return folder


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of a run, read file by file."""

    masks: list[dict[str, Any]]
    failures: list[dict[str, Any]]

    @property
    def keys(self) -> list[tuple[str, int]]:
        """(shard, index) of every image, sorted."""
        return sorted((row["shard"], row["index"]) for row in self.masks + self.failures)

    def failure_of(self, image_id: str) -> dict[str, Any]:
        """The only failure with this image_id."""
        (found,) = [row for row in self.failures if row["image_id"] == image_id]
        return found


def read_rows(out: Path) -> Rows:
    """All rows in `masks/` and `failures/` of a local run."""
    masks = [row for file in sorted((out / "masks").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    failures = [row for file in sorted((out / "failures").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return Rows(masks, failures)


def part_files(out: Path) -> dict[str, bytes]:
    """Every part: file name -> bytes."""
    return {file.name: file.read_bytes() for file in sorted((out / "masks").glob("*.parquet"))}


def parts_in(out: Path) -> list[PartName]:
    """The parts as their names and sizes say, in order of source and index."""
    return sorted(name for names in list_parts(LocalStore(), str(out)).values() for name in names)
