"""Makes a run without Ray, for tests that damage it, and opens its parts."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.config import SegmentConfig
from pipeline.labels.png import decode_png
from pipeline.labels.prepare import prepare
from pipeline.labels.statistics import LEVELS, min_confidence_level
from pipeline.listing.listing import Listing, list_inputs
from pipeline.output.footer import PartFooter, footer_of, part_bytes
from pipeline.output.parts import add_digests, row_digest
from pipeline.output.remaining import planned_sources, remaining_spans
from pipeline.plan.fingerprint import settings
from pipeline.plan.options import label_options, network_request, read_options
from pipeline.plan.plan import extend_plan, read_plan
from pipeline.storage import writable_store_for
from pipeline.sums.derived import write_derived, write_run_json
from pipeline.sums.totals import Totals
from pipeline.worker.span_worker import SegmentSpan, WorkerConfig

Row = dict[str, Any]


def label(inputs: list[Path], out: Path, *, relabel_changed: bool = False, **flags: Any) -> None:
    """Do what an attempt does, in this process and without Ray."""
    given: Row = {"weights": "bundled", "short_side": 64, "part_images": 2} | flags
    config = SegmentConfig(input=tuple(map(str, inputs)), output=str(out), **given)
    store, network = writable_store_for(config.output), prepare(network_request(config))
    fixed = settings(config, network)
    entries = list_inputs(
        config.input, Listing(), input_format=config.input_format, image_column=config.image_column, output=config.output
    )
    plan = extend_plan(store, config.output, read_plan(store, config.output), entries, fixed, relabel_changed=relabel_changed)
    worker = WorkerConfig(
        output=config.output, fingerprint=fixed["fingerprint"], part_images=config.part_images, read=read_options(config),
        labels=label_options(config, network),
    )  # fmt: skip
    segment = SegmentSpan(worker, network)
    for span in remaining_spans(plan, {}, part_images=config.part_images, workers=2):
        assert all(report.error is None for report in segment(span))
    totals = Totals(network.classes)
    write_derived(
        store, config.output, planned_sources(plan), totals, fixed["fingerprint"], min_confidence_level(config.min_confidence)
    )
    counts = {name: getattr(totals, name) for name in ("images", "masks", "failures", "broken_shards")}
    run = {
        "state": "complete",
        "input": list(config.input),
        "counts": counts | {"inferred": 0, "skipped": 0},
        "labels_digest": totals.labels_digest,
    }
    write_run_json(store, config.output, run | {"errors": dict(totals.errors.most_common())} | fixed)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a run on disk, opened."""

    file: Path
    rows: list[Row]
    footer: PartFooter

    @property
    def object(self) -> str:
        return f"masks/{self.file.name}"

    def write(self, rows: list[Row] | None = None, **footer: Any) -> None:
        """Write the part again with other rows or another footer. Checksums and all else are in order."""
        said = replace(self.footer, **footer)
        rows = self.rows if rows is None else rows
        self.file.write_bytes(part_bytes(rows, said, confidence_map=bool(rows) and "confidence" in rows[0]))


def overlapping(part: Part) -> Path:
    """Commit a part that holds only the last row of this part, and is in order by itself -> its file."""
    row, classes = part.rows[-1], len(part.footer.pixels_by_class)
    pixels = [0] * classes
    for found in row["classes"]:
        pixels[found["class_id"]] = found["pixels"]
    histograms = np.zeros((classes, LEVELS), np.int64)
    histograms[:, -1] = pixels
    footer = replace(
        part.footer, first=row["index"], rows=1, masks=1, histograms=histograms,
        images_by_class=tuple(int(count > 0) for count in pixels), pixels_by_class=tuple(pixels),
        pixels=row["width"] * row["height"],
        digest=add_digests([row_digest(row["shard"], row["index"], decode_png(row["mask"]["bytes"]))]),
    )  # fmt: skip
    file = part.file.with_name(str(footer.name))
    file.write_bytes(part_bytes([row], footer, confidence_map="confidence" in row))
    return file


def parts_of(out: Path, shard: str) -> list[Part]:
    """The parts of one source in order. shard: a piece of the source's URI; `plan` for single images."""
    found = []
    for file in sorted((out / "masks").glob("*.parquet")):
        table = pq.read_table(file)
        footer = footer_of(pq.read_metadata(file).metadata)
        if shard in footer.source["uri"]:
            found.append(Part(file, table.to_pylist(), footer))
    return sorted(found, key=lambda part: part.footer.first)


def change_run(out: Path, change: Callable[[Row], None]) -> None:
    run = json.loads((out / "run.json").read_text())
    change(run)
    (out / "run.json").write_text(json.dumps(run))
