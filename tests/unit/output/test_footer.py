"""Footers and the bytes of parts; and damage that must be seen."""

import base64
import io
import json
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Damaged, NewerFormat, ObjectChanged, ObjectMissing
from pipeline.output.footer import FOOTER_KEY, Failure, PartFooter, failures_bytes, part_bytes, read_footer
from pipeline.output.parts import PartName
from pipeline.schema import FAILURES, masks_schema
from pipeline.shards.base import Cursor
from pipeline.storage.local import LocalStore
from tests.support.memory import short_of_memory

STORE = LocalStore()
SOURCE = {"uri": "s3://b/0.tar", "size": 100, "version": "etag:1"}


def _footer(**changed: object) -> PartFooter:
    histograms = np.zeros((3, 256), np.int64)
    histograms[1, 200], histograms[2, 255] = 1 << 40, 7
    failures = (
        Failure("a", "s3://b/0.tar", 5, "decode", "CorruptImage", "zero bytes", 0),
        Failure("фото", "s3://b/0.tar", 6, "read", "MissingImage", "gone", None),
    )
    values = {
        "fingerprint": "f" * 64, "source": SOURCE, "first": 4, "rows": 3, "last": True, "masks": 1, "broken": False,
        "failures": failures, "histograms": histograms, "images_by_class": (0, 1, 0), "pixels_by_class": (0, 9, 0), "pixels": 12,
        "digest": "0" * 64, "after": Cursor(7, 1024, "a/0006.jpg"), "versions": {"engine": "openvino 2026.2"},
    }  # fmt: skip
    return PartFooter(**(values | changed))  # type: ignore[arg-type]


ROW = {
    "image_id": "x", "shard": "s3://b/0.tar", "index": 4, "member": "x.jpg", "offset": 512, "length": 99, "width": 4, "height": 3,
    "orientation": 1, "mask": {"bytes": b"png", "path": None}, "mean_confidence": 0.5, "ignored_fraction": 0.0,
    "classes": [{"class_id": 1, "name": "dog", "pixels": 9, "fraction": 0.75, "mean_confidence": 0.5,
                 "bbox": {"x": 0, "y": 0, "width": 3, "height": 3}}],
}  # fmt: skip


def _commit(out: Path, footer: PartFooter, rows: list[dict[str, object]] | None = None) -> Path:
    path = out / "masks" / str(footer.name)
    STORE.create(str(path), part_bytes([ROW] if rows is None else rows, footer, confidence_map=False))
    return path


# --- footers -------------------------------------------------------------------------------------------------


def _same(one: PartFooter, other: PartFooter) -> bool:
    return one.to_json() == other.to_json() and bool((one.histograms == other.histograms).all())


@given(
    first=st.integers(0, 1 << 40),
    rows=st.integers(0, 300),
    last=st.booleans(),
    counts=st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=9),
    after=st.builds(Cursor, st.integers(0), st.none() | st.integers(0), st.none() | st.text()),
    message=st.text(),
)
def test_footers_round_trip(first: int, rows: int, last: bool, counts: list[int], after: Cursor, message: str) -> None:
    histograms = np.zeros((3, 256), np.int64)
    histograms.flat[: len(counts)] = counts
    failure = Failure("id", "shard", first, "decode", "CorruptImage", message, None)
    footer = _footer(first=first, rows=rows, last=last, histograms=histograms, after=after, failures=(failure,))
    back = PartFooter.from_json(footer.to_json())
    assert _same(footer, back)
    assert back.failures == footer.failures
    assert back.after == after
    assert back.name == footer.name
    assert back.images_by_class == (0, 1, 0)


def test_a_committed_footer_is_read_back(tmp_path: Path) -> None:
    footer = _footer()
    _commit(tmp_path, footer)
    assert _same(read_footer(STORE, str(tmp_path), footer.name), footer)


def test_a_part_without_rows_has_a_footer_too(tmp_path: Path) -> None:
    footer = _footer(first=0, rows=0, masks=0, failures=())
    _commit(tmp_path, footer, [])
    assert read_footer(STORE, str(tmp_path), footer.name).rows == 0


def test_a_part_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        read_footer(STORE, str(tmp_path), _footer().name)


def test_memory_that_runs_out_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _commit(tmp_path, _footer())
    monkeypatch.setattr(pq, "read_metadata", short_of_memory)
    with pytest.raises(MemoryError):
        read_footer(STORE, str(tmp_path), _footer().name)


@pytest.mark.parametrize("keep", [0, 3, 8, -1, -8, -200])
def test_a_part_that_is_cut(tmp_path: Path, keep: int) -> None:
    path = _commit(tmp_path, _footer())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(Damaged, match=f"masks/{_footer().name}"):
        read_footer(STORE, str(tmp_path), _footer().name)


def test_a_parquet_file_of_somebody_else(tmp_path: Path) -> None:
    path = _commit(tmp_path, _footer())
    buffer = io.BytesIO()
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(Damaged, match="no footer of maskfleet"):
        read_footer(STORE, str(tmp_path), _footer().name)


@pytest.mark.parametrize("changed", [{"first": 5}, {"rows": 4}, {"last": False}, {"source": SOURCE | {"version": "etag:2"}}])
def test_a_part_under_another_name(tmp_path: Path, changed: dict[str, object]) -> None:
    path = _commit(tmp_path, _footer(**changed))
    path.rename(path.with_name(str(_footer().name)))
    with pytest.raises(Damaged, match="its footer says that it is"):
        read_footer(STORE, str(tmp_path), _footer().name)


FOOTER = json.loads(_footer().to_json())


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b"{}",
        *(json.dumps({key: value for key, value in FOOTER.items() if key != left_out}).encode() for left_out in FOOTER
          if left_out not in ("versions", "format", "part_images")),
        *(json.dumps(FOOTER | {key: value}).encode() for key, value in [
            ("histograms", "!"), ("histograms", "AAAA"), ("histograms", 7), ("failures", [{}]), ("failures", 7),
            ("failures", None), ("after", None), ("after", [1]), ("after", {"x": 1}), ("images_by_class", None), ("source", None),
            ("source", {}), ("source", []), ("unknown", 1),
        ]),
    ],
)  # fmt: skip
def test_footers_that_cannot_be_read(text: bytes) -> None:
    with pytest.raises(Damaged, match="footer"):
        PartFooter.from_json(text)


@given(at=st.integers(0, 1 << 20), bits=st.integers(1, 255))
def test_a_flipped_byte_in_the_footer_is_damage_or_harmless(tmp_path_factory: pytest.TempPathFactory, at: int, bits: int) -> None:
    """Whatever is flipped: `Damaged`, or an answer; nothing else is raised."""
    footer = _footer()
    data = bytearray(part_bytes([ROW], footer, confidence_map=False))
    length = int.from_bytes(data[-8:-4], "little") + 8
    data[len(data) - length + at % length] ^= bits
    out = tmp_path_factory.mktemp("out")
    STORE.create(str(out / "masks" / str(footer.name)), bytes(data))
    with suppress(Damaged):
        assert read_footer(STORE, str(out), footer.name).name == footer.name


# --- bytes ---------------------------------------------------------------------------------------------------


def test_the_same_part_has_the_same_bytes() -> None:
    assert part_bytes([ROW], _footer(), confidence_map=False) == part_bytes([dict(ROW)], _footer(), confidence_map=False)
    assert part_bytes([ROW], _footer(), confidence_map=False) != part_bytes([ROW], _footer(pixels=13), confidence_map=False)


@pytest.mark.parametrize("confidence_map", [False, True])
def test_what_readers_see(confidence_map: bool) -> None:
    row = ROW | ({"confidence": {"bytes": b"gray", "path": None}} if confidence_map else {})
    table = pq.read_table(io.BytesIO(part_bytes([row], _footer(), confidence_map=confidence_map)))
    assert table.schema.equals(masks_schema(confidence_map=confidence_map))
    assert table.to_pylist() == [row]
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {name: {"_type": "Image"} for name in ("mask", *(["confidence"] if confidence_map else []))}


def test_the_footer_is_stored_once_and_small() -> None:
    metadata = pq.read_metadata(io.BytesIO(part_bytes([ROW], _footer(), confidence_map=False))).metadata
    assert json.loads(metadata[FOOTER_KEY])["fingerprint"] == "f" * 64
    assert b"f" * 64 not in base64.b64decode(metadata[b"ARROW:schema"])


@pytest.mark.parametrize(
    ("rows", "last", "max_rows"), [(0, True, 4), (3, False, 4), (4, True, 4), (256, False, 256), (1, True, 65536)]
)
def test_the_size_says_how_many_rows_a_part_has(rows: int, last: bool, max_rows: int) -> None:
    footer = _footer(rows=rows, last=last, part_images=max_rows)
    data = part_bytes([ROW], footer, confidence_map=False)
    assert PartName.parse(str(footer.name), len(data)) == footer.name
    assert pq.read_table(io.BytesIO(data), page_checksum_verification=True).to_pylist() == [ROW]


def test_histograms_are_sparse() -> None:
    """As those of 256 photographs: half of the levels of each class, counts that vary as counts do."""
    random = np.random.default_rng(0)
    for classes, most in ((21, 6 << 10), (150, 40 << 10)):
        height = random.lognormal(6, 2, (classes, 1)) * np.exp(-np.abs(np.arange(256) - 200) / 40)
        text = _footer(histograms=random.poisson(height), images_by_class=(0,) * classes).to_json()
        assert len(text) < most


def test_a_footer_of_a_newer_format_is_no_damage() -> None:
    with pytest.raises(NewerFormat, match="format 3, this maskfleet reads up to 2"):
        PartFooter.from_json(json.dumps(FOOTER | {"format": 3, "histograms": "another way"}))


def test_a_footer_of_format_1_is_read() -> None:
    counts = _footer().histograms
    old = {key: value for key, value in FOOTER.items() if key not in ("format", "part_images")}
    text = json.dumps(old | {"histograms": base64.b64encode(zlib.compress(counts.astype("<i8").tobytes())).decode()})
    for values in (text, json.dumps(json.loads(text) | {"format": 1})):
        footer = PartFooter.from_json(values)
        assert (footer.histograms == counts).all()
        assert str(footer.name).endswith("-0000000004-00003-last.parquet")


def test_histograms_that_unpack_to_more_than_they_should() -> None:
    bomb = base64.b85encode(zlib.compress(bytes(1 << 24))).decode()
    with pytest.raises(Damaged, match="too long"):
        PartFooter.from_json(json.dumps(FOOTER | {"histograms": bomb}))


def test_a_part_that_was_made_anew_since_it_was_listed(tmp_path: Path) -> None:
    path = _commit(tmp_path, _footer(part_images=4))
    listed = replace(_footer(part_images=4).name, size=path.stat().st_size)
    for footer, rows in ((_footer(part_images=4, rows=4, failures=()), [ROW] * 99), (_footer(part_images=4, masks=0), [])):
        path.unlink()
        _commit(tmp_path, footer, rows)
        with pytest.raises(ObjectChanged):
            read_footer(STORE, str(tmp_path), listed)


def test_pages_carry_checksums() -> None:
    noise = np.random.default_rng(1).bytes(4096)  # which zstd stores as it is
    data = bytearray(part_bytes([ROW | {"mask": {"bytes": noise, "path": None}}], _footer(), confidence_map=False))
    data[data.index(noise) + 100] ^= 0xFF
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.read_table(io.BytesIO(bytes(data)), page_checksum_verification=True)


def test_failures_are_the_footers() -> None:
    table = pq.read_table(io.BytesIO(failures_bytes(_footer())))
    assert table.schema.equals(FAILURES)
    assert table.column("index").to_pylist() == [5, 6]
    assert table.column("error").to_pylist() == ["CorruptImage", "MissingImage"]
    assert table.column("bytes_length").to_pylist() == [0, None]
    assert failures_bytes(_footer()) == failures_bytes(PartFooter.from_json(_footer().to_json()))
