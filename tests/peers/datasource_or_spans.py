"""The decision behind `driver/ray_data.py`, measured: spans into actors, or a custom Datasource fused into the pool.

`python -m tests.peers.datasource_or_spans FOLDER [--pairs 3]`: FOLDER holds tars. Both label with the same
engine and commit the same parts (a block of the Datasource is a part); passes are interleaved in one Ray.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipeline.config import Workers
from pipeline.driver import ray_data as flow
from pipeline.labels.labeller import Labeller, LabelOptions
from pipeline.labels.prepare import prepare
from pipeline.model.engine import Prepared
from pipeline.model.loading import load_engine
from pipeline.model.prepare import NetworkRequest
from pipeline.output.remaining import shard_digest
from pipeline.output.reports import Events
from pipeline.output.span import Span
from pipeline.shards.base import Cursor, ReadOptions, SourceObject
from pipeline.shards.tar import read_tar
from pipeline.storage import store_for
from pipeline.worker.span_worker import WorkerConfig

PART_IMAGES = 32
Pass = Callable[[list[SourceObject], Path], int]


def _blocks(shard: SourceObject) -> Iterator[pa.Table]:
    """One block a part: encoded images through the object store, unless the read is fused."""
    rows: list[dict[str, Any]] = []
    for image in read_tar(store_for(shard.uri), shard, Cursor(), ReadOptions()):
        rows.append({"index": image.index, "data": image.data})
        if len(rows) == PART_IMAGES:
            yield pa.Table.from_pylist(rows)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows)


class _Tars(Datasource):
    """A ReadTask a shard."""

    def __init__(self, shards: list[SourceObject]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shards = shards

    def estimate_inmemory_data_size(self) -> int:
        return sum(shard.size or 0 for shard in self._shards)

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        def task(shard: SourceObject) -> ReadTask:
            metadata = BlockMetadata(num_rows=None, size_bytes=shard.size, exec_stats=None, input_files=None)
            return ReadTask(lambda: _blocks(shard), metadata)

        return [task(shard) for shard in self._shards]


class _LabelBlock:
    """Labels a block and writes it as a part."""

    def __init__(self, options: LabelOptions, out: str) -> None:
        self._options, self._out = options, Path(out)
        self._labeller: Labeller | None = None

    def __call__(self, block: pa.Table, network: list["ray.ObjectRef[Prepared]"]) -> dict[str, list[int]]:
        import uuid

        import pyarrow.parquet as pq

        if self._labeller is None:
            self._labeller = Labeller(load_engine(ray.get(network[0])), self._options)
        label = self._labeller
        rows = [label.label(label.read(data)).columns for data in block.column("data").to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows), self._out / f"{uuid.uuid4().hex}.parquet", compression="zstd")
        return {"rows": [len(rows)]}


def _datasource(network: Prepared, options: LabelOptions, *, fused: bool) -> Pass:
    def run(shards: list[SourceObject], out: Path) -> int:
        flow._configure(ray.data.DataContext.get_current(), ActorPoolStrategy(size=2))
        dataset = ray.data.read_datasource(
            _Tars(shards), override_num_blocks=len(shards), num_cpus=1 if fused else 0.1,
        ).map_batches(
            _LabelBlock, batch_size=None, batch_format="pyarrow", num_cpus=1 if fused else 0.9,
            fn_constructor_args=(options, str(out)), fn_kwargs={"network": [ray.put(network)]},
            compute=ActorPoolStrategy(size=2, max_tasks_in_flight_per_actor=2),
        )  # fmt: skip
        return sum(sum(batch["rows"]) for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0))

    return run


def _spans(network: Prepared, options: LabelOptions) -> Pass:
    def run(shards: list[SourceObject], out: Path) -> int:
        config = WorkerConfig(output=str(out), fingerprint="f", part_images=PART_IMAGES, read=ReadOptions(), labels=options)
        spans = [Span(source=shard, digest=shard_digest(shard), first=0, stop=None) for shard in shards]
        return sum(report.rows for report in flow.label(spans, config, flow.share(network), flow.fleet(Workers(2, 2), Events())))

    return run


def _interleaved(rounds: dict[str, Pass], shards: list[SourceObject], pairs: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(pairs):
        for name, run in rounds.items():
            with TemporaryDirectory() as out:
                started = time.perf_counter()
                images = run(shards, Path(out))
                seconds[name].append(time.perf_counter() - started)
                click.echo(f"{name:24} {images} images {images / seconds[name][-1]:6.2f} images/s")
    return seconds


def _shards(folder: str) -> Iterable[SourceObject]:
    for info in store_for(folder).walk(str(Path(folder).absolute())):
        yield SourceObject(uri=info.uri, kind="tar", size=info.size, version=info.version)


@click.command()
@click.argument("folder")
@click.option("--pairs", default=3, show_default=True)
@click.option("--short-side", default=288, show_default=True)
def main(folder: str, pairs: int, short_side: int) -> None:
    """Spans against a Datasource, fused and not."""
    network = prepare(NetworkRequest(model="lraspp_mobilenet_v3_large", weights="bundled", engine="openvino"))
    network = replace(network, preset=replace(network.preset, short_side=short_side))
    options = LabelOptions(classes=network.classes, preset=network.preset)
    flow.start_ray(debug=False)
    rounds = {
        "spans": _spans(network, options),
        "datasource, fused": _datasource(network, options, fused=True),
        "datasource, not fused": _datasource(network, options, fused=False),
    }
    seconds = _interleaved(rounds, list(_shards(folder)), pairs)
    for name in rounds:
        ratio = median(mine / base for mine, base in zip(seconds[name], seconds["spans"], strict=True))
        click.echo(f"{name:24} {ratio:.2f}x the time of spans (median of {pairs})")


if __name__ == "__main__":
    main()
