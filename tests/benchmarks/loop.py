"""The bare loop: plain processes make the job's labels without Ray, Parquet or commits. The job cannot be faster.

Each of N processes takes every N-th tar, reads it with the job's own reader, decodes ahead in one thread, and labels in the main
thread. Of each PNG only its share of a digest is kept. Engine, threads, read-ahead and images are those of the job.
"""

import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from pipeline.api.opened import open_run
from pipeline.errors import BadImage
from pipeline.labels.labeller import Labeller, LabelOptions, Resized
from pipeline.model.engine import Prepared
from pipeline.model.loading import load_engine
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.tar import read_tar
from pipeline.storage import base_name, store_for
from pipeline.worker.prefetch import ReadAhead
from pipeline.worker.reading import IMAGES_AHEAD
from tests.benchmarks.runs import BENCHMARK, Ran, Stamp, Watch


def mask_digest(shard: str, index: int, png: bytes) -> int:
    """One mask's share of an order-free digest: a hash of the tar's base name, the index in the tar, and the PNG's bytes."""
    return int.from_bytes(hashlib.sha256(f"{base_name(shard)} {index} ".encode() + png).digest())


def masks_digest(output: str) -> int:
    """The digest of all masks that a run has committed."""
    batches = open_run(output).masks.to_batches(columns=["shard", "index", "mask"])
    rows = (row for batch in batches for row in batch.to_pylist())
    return sum(mask_digest(row["shard"], row["index"], row["mask"]["bytes"]) for row in rows)


def run_loop(network: Prepared, source: str, workers: int, every: int, beside: Sequence[int] = ()) -> tuple[Ran, int]:
    """Label the tars of `source` in so many processes -> the run, and the digest of its masks."""
    infos = store_for(source).walk(source.rstrip("/") + "/")
    shards = [SourceObject(uri=info.uri, kind="tar", size=info.size, version=info.version) for info in infos]
    shares = [shards[first::workers] for first in range(workers)]
    began, started = time.time(), time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    with Watch(os.getpid(), BENCHMARK, beside) as watch, ProcessPoolExecutor(workers, spawn) as pool:
        done = list(pool.map(_label_all, repeat(network), shares, repeat(every)))
    seconds, stamps = time.perf_counter() - started, {number: stamps for number, (stamps, _) in enumerate(done)}
    return Ran(began=began, seconds=seconds, stamps=stamps, watch=watch), sum(digest for _, digest in done)


def _label_all(network: Prepared, shards: Sequence[SourceObject], every: int) -> tuple[list[Stamp], int]:
    """Label tars in a process of the loop -> a stamp after every `every` images, and the digest of the masks."""
    options = LabelOptions(classes=network.classes, preset=network.preset)
    labeller, stamps, digest, read_ms = Labeller(load_engine(network), options), list[Stamp](), 0, [0.0]
    for images, (image, resized) in enumerate(ReadAhead(_read(labeller, shards, read_ms), IMAGES_AHEAD), 1):
        mask = labeller.label(resized).columns["mask"]
        digest += mask_digest(image.shard, image.index, bytes(mask["bytes"]))  # type: ignore[index]
        if images % every == 0:
            spent = dict(labeller.milliseconds) | {"read": read_ms[0]}
            stamps.append(Stamp(unix_s=time.time(), images=every, cpu_s=time.process_time(), milliseconds=spent))
    return stamps, digest


def _read(labeller: Labeller, shards: Sequence[SourceObject], read_ms: list[float]) -> Iterator[tuple[EncodedImage, Resized]]:
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
            yield image, labeller.read(image.data)
