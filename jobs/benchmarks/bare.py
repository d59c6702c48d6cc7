"""The bare loop: the same labels by plain processes, without Ray, Parquet or commits: the limit of the job.

Each process takes every N-th tar, reads it with the job's own reader, decodes ahead in one thread, labels in the
main thread, and keeps of each PNG its size and its share of a digest. Engine, threads, read-ahead and images are the job's.
"""

import hashlib
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

from jobs.benchmarks.plain_labels import PlainLabeller
from jobs.benchmarks.steady import Stamp
from pipeline.errors import BadImage
from pipeline.labels.labeller import Labeller, LabelOptions, Resized
from pipeline.model.engine import Prepared
from pipeline.model.loading import load_engine
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.tar import read_tar
from pipeline.storage import base_name, store_for
from pipeline.worker.prefetch import ReadAhead
from pipeline.worker.reading import IMAGES_AHEAD

LoopKind = Literal["bare", "plain"]


class Loop(Protocol):
    """What a loop does with an image: `read` in the thread that reads ahead, `label` in the main thread."""

    milliseconds: dict[str, float]

    def read(self, data: bytes) -> Resized:
        """Encoded bytes -> what the network reads."""
        ...

    def label(self, resized: Resized) -> bytes:
        """Network to PNG."""
        ...


class BareLabeller:
    """The job's `Labeller`, down to the PNG."""

    def __init__(self, labeller: Labeller) -> None:
        self._labeller = labeller
        self.milliseconds = labeller.milliseconds

    def read(self, data: bytes) -> Resized:
        """Decode and resize."""
        return self._labeller.read(data)

    def label(self, resized: Resized) -> bytes:
        """Network, labels, statistics, PNG."""
        mask = self._labeller.label(resized).columns["mask"]
        return bytes(mask["bytes"])  # type: ignore[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one process labels; it stamps every `every` images."""

    kind: LoopKind
    network: Prepared
    options: LabelOptions
    shards: tuple[SourceObject, ...]
    every: int


@dataclass(slots=True)
class Done:
    """What one process did. digest: order-free sum of `png_digest`. png_bytes: of all masks."""

    stamps: list[Stamp] = field(default_factory=list)
    images: int = 0
    png_bytes: int = 0
    digest: int = 0


def png_digest(shard: str, index: int, png: bytes) -> int:
    """One mask's share of an order-free digest: of the tar's base name, the index in it, and the PNG's bytes."""
    header = json.dumps([base_name(shard), index]).encode()
    return int.from_bytes(hashlib.sha256(header + b"\0" + png).digest())


def make_loop(kind: LoopKind, network: Prepared, options: LabelOptions) -> Loop:
    """The loop on an engine of its own."""
    engine = load_engine(network)
    return PlainLabeller(engine, options.preset.short_side) if kind == "plain" else BareLabeller(Labeller(engine, options))


def run_bare(
    kind: LoopKind, network: Prepared, options: LabelOptions, shards: Sequence[SourceObject], processes: int, every: int
) -> list[Done]:
    """Label these tars in so many processes, each every N-th of them."""
    work = [
        Work(kind=kind, network=network, options=options, shards=tuple(shards[first::processes]), every=every)
        for first in range(min(processes, len(shards)))
    ]
    with ProcessPoolExecutor(len(work), multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_label_all, work))


def _label_all(work: Work) -> Done:
    loop, done, stamped = make_loop(work.kind, work.network, work.options), Done(), 0
    read_ms = [0.0]
    for image, resized in ReadAhead(_read(loop, work.shards, read_ms), IMAGES_AHEAD):
        png = loop.label(resized)
        done.images += 1
        done.png_bytes += len(png)
        done.digest += png_digest(image.shard, image.index, png)
        if done.images - stamped == work.every:
            spent = dict(loop.milliseconds) | {"read": read_ms[0]}
            stamp = Stamp(unix_s=time.time(), images=work.every, cpu_s=time.process_time(), milliseconds=spent)
            done.stamps.append(stamp)
            stamped = done.images
    return done


def _read(loop: Loop, shards: Sequence[SourceObject], read_ms: list[float]) -> Iterator[tuple[EncodedImage, Resized]]:
    for shard in shards:
        images = read_tar(store_for(shard.fetch_uri), shard, Cursor(), ReadOptions())
        while True:
            started = time.thread_time()
            image = next(images, None)
            read_ms[0] += 1000 * (time.thread_time() - started)
            if image is None:
                break
            if image.error is not None or image.data is None:
                raise image.error or BadImage("no data")
            yield image, loop.read(image.data)
