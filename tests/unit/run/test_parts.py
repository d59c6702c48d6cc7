"""Parts: names, footers, bytes, digests; and damage that must be seen."""

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

from pipeline.errors import Damaged, ObjectMissing
from pipeline.run.parts import (
    FOOTER_KEY,
    Failure,
    PartFooter,
    PartName,
    add_digests,
    failures_bytes,
    list_parts,
    part_bytes,
    read_footer,
    row_digest,
    source_digest,
)
from pipeline.schema import FAILURES, masks_schema
from pipeline.shards.base import Cursor
from pipeline.storage.local import LocalStore

STORE = LocalStore()
SOURCE = {"uri": "s3://b/0.tar", "size": 100, "version": "etag:1"}
DIGESTS = st.text("0123456789abcdef", min_size=24, max_size=24)


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


# --- names ---------------------------------------------------------------------------------------------------


@given(source=DIGESTS, first=st.integers(0, 10**10 - 1), rows=st.integers(0, 65536), last=st.booleans())
def test_names_round_trip(source: str, first: int, rows: int, last: bool) -> None:
    name = PartName(source, first, rows, last)
    assert PartName.parse(str(name)) == name
    assert name.stop == first + rows


@given(st.lists(st.builds(PartName, DIGESTS, st.integers(0, 10**10 - 1), st.integers(0, 65536), st.booleans()), unique=True))
def test_listings_by_name_are_listings_by_index(names: list[PartName]) -> None:
    by_text = [PartName.parse(text) for text in sorted(map(str, names))]
    assert [(name.source, name.first) for name in by_text if name] == sorted((name.source, name.first) for name in names)


@pytest.mark.parametrize(
    "text",
    ["", "x.parquet", "g" * 24 + "-0000000000-00001.parquet", "a" * 24 + "-0000000000-00001", "a" * 24 + "-0-1.parquet",
     "a" * 24 + "-0000000000-00001-first.parquet", "x" + "a" * 24 + "-0000000000-00001.parquet",
     "a" * 24 + "-0000000000-00001.parquet\n",
     "a" * 24 + "-0000000000-00001.parquet.tmp", "A" * 24 + "-0000000000-00001.parquet"],
)  # fmt: skip
def test_other_names_are_no_parts(text: str) -> None:
    assert PartName.parse(text) is None


def test_the_source_digest_is_of_uri_and_identity() -> None:
    digests = {
        source_digest(uri, size, version)
        for uri in ("a", "b") for size in (1, None) for version in ("etag:1", "etag:2", None)
    }  # fmt: skip
    assert len(digests) == 12
    assert source_digest("s3://b/0.tar", 100, "etag:1") == source_digest("s3://b/0.tar", 100, "etag:1") == _footer().name.source


def test_list_parts(tmp_path: Path) -> None:
    source, other = "a" * 24, "b" * 24
    names = [
        PartName(source, 8, 2, True),
        PartName(source, 0, 4, False),
        PartName(source, 4, 4, False),
        PartName(other, 0, 0, True),
    ]
    for name in (*map(str, names), "stray.parquet", ".hidden"):
        STORE.create(str(tmp_path / "masks" / name), b"")
    assert list_parts(STORE, str(tmp_path)) == {source: [names[1], names[2], names[0]], other: [names[3]]}
    assert list_parts(STORE, str(tmp_path / "absent")) == {}


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
          if left_out not in ("versions", "format")),
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
    assert FOOTER_KEY in table.schema.metadata


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


def test_histograms_are_compressed_little_endian_integers() -> None:
    raw = zlib.decompress(base64.b64decode(FOOTER["histograms"]))
    assert int.from_bytes(raw[(256 + 200) * 8 : (256 + 201) * 8], "little") == 1 << 40


# --- digests -------------------------------------------------------------------------------------------------


def test_a_row_digest_sees_everything_that_makes_a_row() -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    other = mask.copy()
    other[2, 3] ^= 1
    digests = [
        row_digest("s", 0, mask), row_digest("s", 1, mask), row_digest("t", 0, mask), row_digest("s", 0, other),
        row_digest("s", 0, mask.reshape(4, 3)), row_digest("s", 0, mask.reshape(2, 6)),
    ]  # fmt: skip
    assert len(set(digests)) == 6
    assert row_digest("s", 0, np.asfortranarray(mask)) == digests[0]
    assert row_digest("s", 0, mask[:, ::-1][:, ::-1]) == digests[0]


@given(st.lists(st.integers(0, (1 << 256) - 1)), st.randoms(use_true_random=False), st.integers(0, 10))
def test_digests_add_up_in_any_order_and_grouping(digests: list[int], random: "object", at: int) -> None:
    whole = add_digests(digests)
    shuffled = sorted(digests)
    assert add_digests(shuffled) == whole
    assert add_digests([add_digests(shuffled[:at]), add_digests(shuffled[at:])]) == whole
    assert len(whole) == 64
    assert add_digests([1, 2]) != add_digests([3, 1])
    assert add_digests([(1 << 256) - 1]) == "f" * 64
    assert add_digests(["f" * 64, 2]) == f"{1:064x}"


def test_footers_can_be_replaced_field_by_field() -> None:
    assert replace(_footer(), last=False).name.last is False
