"""A worker without Ray: what it reads of a span that ends inside its shard."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import SegmentConfig
from pipeline.labels.labeller import Labeller, Resized
from pipeline.model.prepare import prepare
from pipeline.run.left import cut, remaining_spans
from pipeline.run.options import label_options, network_request, read_options
from pipeline.run.parts import PartName
from pipeline.run.plan import extend_plan
from pipeline.run.span import Span
from pipeline.run.worker import SegmentSpan, WorkerConfig
from pipeline.shards.listing import Listing, list_inputs
from pipeline.storage import writable_store_for
from tests.support.tars import photos, tar_bytes

PART_IMAGES = 3


def _worker(source: Path, out: Path) -> tuple[SegmentSpan, Span]:
    """And the one span that is all there is."""
    config = SegmentConfig(
        input=(str(source),), output=str(out), weights="bundled", short_side=32, part_images=PART_IMAGES, workers=1
    )
    network, store = prepare(network_request(config)), writable_store_for(config.output)
    plan = extend_plan(store, config.output, None, list_inputs(config.input, Listing()), {})
    worker = WorkerConfig(
        output=config.output, fingerprint="0" * 64, part_images=PART_IMAGES, read=read_options(config),
        labels=label_options(config, network),
    )  # fmt: skip
    (span,) = remaining_spans(plan, {}, part_images=PART_IMAGES, workers=1)
    return SegmentSpan(worker, network), span


def test_a_span_is_read_to_its_end_and_one_image_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes(photos(20)))
    segment, whole = _worker(tmp_path / "in.tar", tmp_path / "out")
    read, real = 0, Labeller.read

    def counted(self: Labeller, data: bytes) -> Resized:
        nonlocal read
        read += 1
        return real(self, data)

    monkeypatch.setattr(Labeller, "read", counted)
    first, last = cut(whole, read=segment._config.read, part_images=PART_IMAGES, pieces=2)
    assert first.stop == last.first
    parts = [receipt.part for receipt in segment(first)]
    assert read == first.stop + 1  # that it goes on says that the part before is not the last
    parts += [receipt.part for receipt in segment(last)]
    assert read == 20 + 1
    names = [PartName.parse(part or "") for part in parts]
    assert [(name.first, name.last) for name in names if name is not None] == [(at, at == 18) for at in range(0, 20, 3)]


def test_a_hole_between_parts_is_filled_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes(photos(9)))
    segment, whole = _worker(tmp_path / "in.tar", tmp_path / "out")
    before = {receipt.part: (tmp_path / "out" / "masks" / (receipt.part or "")).read_bytes() for receipt in segment(whole)}
    first, second, _ = before
    (tmp_path / "out" / "masks" / (second or "")).unlink()
    hole = replace(whole, first=3, stop=6, after=first)
    assert [receipt.part for receipt in segment(hole)] == [second]
    assert (tmp_path / "out" / "masks" / (second or "")).read_bytes() == before[second]
