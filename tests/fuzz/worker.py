"""A mutated input as a worker meets it: every image becomes a mask or a failure, and nothing else happens.

What plain Pillow refuses to load in full may not have a mask.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.config import SegmentConfig
from pipeline.errors import MAX_MESSAGE_CHARS, BadImage, UsageError
from pipeline.labels.labeller import Labeller
from pipeline.labels.prepare import prepare
from pipeline.output.footer import read_footer
from pipeline.output.parts import list_parts
from pipeline.output.remaining import shard_digest
from pipeline.output.span import Span
from pipeline.plan.options import check_head, label_options, network_request, read_options
from pipeline.shards.base import SourceObject
from pipeline.shards.parquet import ParquetRows
from pipeline.storage import writable_store_for
from pipeline.worker.span_worker import SegmentSpan, WorkerConfig
from tests.fuzz.mutations import Input
from tests.support.images import refused_by_pillow

_SIDE = 32


class Worker:
    """One worker of a run whose input and output are thrown away after each file."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._out = folder, folder / "out"
        config = SegmentConfig(
            input=(str(folder),), output=str(self._out), weights="bundled", short_side=_SIDE, part_images=4, max_pixels=1 << 20,
            max_source_pixels=1 << 24,
        )  # fmt: skip
        network = prepare(network_request(config))
        self._store, self._read = writable_store_for(config.output), read_options(config)
        worker = WorkerConfig(
            output=config.output, fingerprint="0" * 64, part_images=config.part_images, read=self._read,
            labels=label_options(config, network),
        )  # fmt: skip
        self._segment = SegmentSpan(worker, network)
        plain = self._segment._labeller
        self._labellers = (plain, Labeller(plain.engine, replace(plain.options, fast_decode=True)))

    def label(self, given: Input) -> Counter[str]:
        """What became of it: `mask`, or the classes of the failures. Raises where it is anything else."""
        return self._image(given.data) if given.kind == "image" else self._shard(given)

    def _image(self, data: bytes) -> Counter[str]:
        found: list[str] = []
        for labeller in self._labellers:
            try:
                labeller.label(labeller.read(data))
            except BadImage as error:
                failed = error
            else:
                _is_an_image(data)
                found.append("mask")
                continue
            assert failed.message.isprintable()
            assert len(failed.message) <= MAX_MESSAGE_CHARS
            found.append(failed.kind)
        assert found[0] == found[1]
        return Counter(found[:1])

    def _shard(self, given: Input) -> Counter[str]:
        file = self._folder / f"x.{given.kind}"
        file.write_bytes(given.data)
        info = self._store.stat(str(file))
        shard = SourceObject(uri=str(file), kind=given.kind, size=info.size, version=info.version)  # type: ignore[arg-type]
        try:
            check_head(shard, self._read)
        except UsageError:
            return Counter(["refused"])  # one line before anything starts
        digest, found, rows = shard_digest(shard), Counter[str](), 0
        reports = list(self._segment(Span(source=shard, digest=digest, first=0, stop=None)))
        assert [report.error for report in reports if report.error] == []
        parts = list_parts(self._store, str(self._out))[digest]
        for part in parts:
            footer = read_footer(self._store, str(self._out), part)
            assert part.first == rows
            assert footer.masks + len(footer.failures) == part.rows
            rows = part.stop
            found["mask"] += footer.masks
            found.update(failure.error for failure in footer.failures)
            for row in pq.read_table(self._out / "masks" / str(part), columns=["index", "offset", "length"]).to_pylist():
                _is_an_image(self._encoded(shard, row))
        assert parts[-1].last
        for left in (*(self._out / "masks").iterdir(), *(self._out / "failures").glob("*")):
            left.unlink()
        return found

    def _encoded(self, shard: SourceObject, row: Mapping[str, Any]) -> bytes:
        if row["offset"] is None:
            return ParquetRows(self._store, self._store.stat(shard.uri), self._read.image_column).read(row["index"])
        return self._store.read(shard.uri, row["offset"], row["length"])


def _is_an_image(data: bytes) -> None:
    refused = refused_by_pillow(data)
    assert refused is None, f"labelled, though Pillow says {refused}"
