"""`verify`: a real run without Ray, copied and then damaged in one way a test."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from jobs.verify import main
from pipeline.errors import NotReachable
from pipeline.labels.png import decode_png, encode_gray, encode_mask
from pipeline.output.footer import Failure, PartFooter, failures_bytes, part_bytes
from pipeline.output.parts import PartName, add_digests, row_digest
from pipeline.plan.fingerprint import fingerprint
from pipeline.plan.plan import extend_plan
from pipeline.shards.base import Cursor, SourceObject
from pipeline.storage import join, writable_store_for
from pipeline.verify.findings import Finding
from pipeline.verify.verify import Verification, verify
from tests.support.corpus import photos, tar_bytes
from tests.support.labelled import Part, Row, change_run, label, overlapping, parts_of

if TYPE_CHECKING:
    from tests.support.s3_server import S3Server


def only(found: Verification) -> Finding:
    (finding,) = found.findings
    return finding


def assert_damaged(found: Verification, name: str, problem: str) -> None:
    """One finding, of this object, that says this."""
    finding = only(found)
    assert (finding.object, finding.kind) == (name, "damaged")
    assert problem in finding.problem
    assert found.exit_code == 7


def assert_derived(found: Verification, name: str, problem: str) -> None:
    finding = only(found)
    assert (finding.object, finding.kind) == (name, "derived")
    assert problem in finding.problem
    assert (found.state, found.exit_code) == ("damaged", 7)


@pytest.mark.parametrize("deep", [False, True])
def test_whole(labelled: Path, deep: bool) -> None:
    found = verify(str(labelled), deep=deep)
    assert found == Verification(images=16, masks=13, failures=3, parts=11, findings=())
    assert (found.state, found.exit_code, found.advice) == ("whole", 0, None)


@pytest.mark.parametrize("deep", [False, True])
def test_whole_with_confidence_maps(mapped: Path, deep: bool) -> None:
    assert verify(f"file://{mapped}/", deep=deep).state == "whole"
    stored = pq.read_table(mapped / "masks")
    assert 0 < max(stored.column("ignored_fraction").to_pylist()) < 1  # else the threshold is not tested


def test_changes_nothing_and_ignores_scratch_files(out: Path) -> None:
    (out / ".tmp").mkdir(exist_ok=True)
    (out / ".tmp" / "half").write_bytes(b"half")
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert verify(str(out), deep=True).state == "whole"
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


# Bytes.


@pytest.mark.parametrize("where", [0, 4, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, -9, -5, -1])
def test_flipped_byte(out: Path, where: float) -> None:
    part = parts_of(out, "a.tar")[0]
    data = bytearray(part.file.read_bytes())
    data[where if isinstance(where, int) else int(where * len(data))] ^= 0x10
    part.file.write_bytes(data)
    assert_damaged(verify(str(out)), part.object, "")


@pytest.mark.parametrize("name", ["part", "class_stats.parquet", "failures", "plan/00000.parquet"])
def test_flipped_bytes_all_over(out: Path, name: str) -> None:
    folders = {"part": parts_of(out, "bad.tar")[0].file, "failures": next((out / "failures").iterdir())}
    file = folders.get(name, out / name)
    data = file.read_bytes()
    version = data.rindex(pa.cpp_version.encode())  # of a derived file nobody else knows the writer
    unnoticed = []
    for position in range(0, len(data), 1 + len(data) // 60):
        file.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        if verify(str(out)).exit_code != 7 and (name == "part" or not version <= position < version + len(pa.cpp_version)):
            unnoticed.append(position)
    assert unnoticed == []


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_truncated_file(out: Path, keep: float) -> None:
    part = parts_of(out, "a.tar")[1]
    data = part.file.read_bytes()
    part.file.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    found = verify(str(out))
    assert_damaged(found, part.object, "")
    assert (found.parts, found.images) == (10, 14)


def test_part_of_another_arrow(out: Path) -> None:
    """Its bytes cannot be compared, its contents can."""
    part = parts_of(out, "a.tar")[0]
    part.write(versions=part.footer.versions | {"pyarrow": "1.0.0"})
    mine, other = f"arrow version {pa.cpp_version}".encode(), f"arrow version {'0' + pa.cpp_version[1:]}".encode()
    part.file.write_bytes(part.file.read_bytes().replace(mine, other))
    assert verify(str(out)).state == "whole"
    part.write()
    part.file.write_bytes(part.file.read_bytes().replace(mine, other))
    assert_damaged(verify(str(out)), part.object, "two versions of Arrow")


def test_large_files_are_written_again_byte_for_byte(tmp_path: Path) -> None:
    """Several row groups in the plan, several pages and dictionaries that overflow in the part: no false alarm."""
    out, count = tmp_path / "out", 20_000
    images = (
        SourceObject(uri=f"/images/{number:06}.jpg", kind="image", size=number, version="mtime:1") for number in range(count)
    )
    rng = np.random.default_rng(0)
    names = ("background", "other")
    labels = {"classes": names, "min_confidence": 0.0, "engine": "none", "labels_version": 1}
    fixed: Row = {"labels": labels, "fingerprint": fingerprint(labels), "shape": {"confidence_map": False, "part_images": count}}
    store = writable_store_for(str(out))
    extend_plan(store, str(out), None, images, fixed)
    rows: list[Row] = [
        {
            "image_id": f"{number}.jpg", "shard": f"/images/{number:06}.jpg", "index": 0, "member": None, "offset": 0,
            "length": number, "width": 1, "height": 1, "orientation": 1, "mask": {"bytes": rng.bytes(2000), "path": None},
            "mean_confidence": rng.random(), "ignored_fraction": 0.0,
            "classes": [
                {
                    "class_id": 0, "name": names[0], "pixels": 1, "fraction": 1.0, "mean_confidence": 0.0,
                    "bbox": {"x": 0, "y": 0, "width": 1, "height": 1},
                },
            ],
        }
        for number in range(count)
    ]  # fmt: skip
    histograms = np.zeros((2, 256), np.int64)
    histograms[0, 7] = count
    footer = PartFooter(
        fingerprint=fixed["fingerprint"], source={"uri": "plan/00000.parquet", "size": None, "version": None}, first=0,
        rows=count, last=True, masks=count, broken=False, failures=(), histograms=histograms, images_by_class=(count, 0),
        pixels_by_class=(count, 0), pixels=count, digest="0" * 64, after=Cursor(count), versions={"pyarrow": pa.__version__},
        part_images=count,
    )  # fmt: skip
    store.create(join(str(out), "masks", str(footer.name)), part_bytes(rows, footer, confidence_map=False))
    found = verify(str(out))
    assert {finding.object for finding in found.findings} == {"run.json", "class_stats.parquet"}
    assert (found.parts, found.masks) == (1, count)
    assert pq.read_metadata(out / "plan" / "00000.parquet").num_row_groups > 1


# What covers the plan.


def test_missing_part(out: Path) -> None:
    part = parts_of(out, "a.tar")[1]
    part.file.unlink()
    (out / "class_stats.parquet").write_bytes(b"not judged")
    found = verify(str(out))
    assert only(found) == Finding(part.footer.source["uri"], "no part has indices 2 to 3", "missing")
    assert (found.state, found.exit_code) == ("incomplete", 5)
    assert found.advice is not None
    assert "same segment command" in found.advice


def test_missing_last_part(out: Path) -> None:
    part = parts_of(out, "a.tar")[-1]
    part.file.unlink()
    assert only(verify(str(out))) == Finding(part.footer.source["uri"], "no part has index 4 and what follows", "missing")


def test_missing_part_of_single_images(out: Path) -> None:
    parts_of(out, "plan")[0].file.unlink()
    finding = only(verify(str(out)))
    assert finding.kind == "missing"
    assert finding.object.startswith("plan/")


def test_shard_without_images_has_a_part(out: Path) -> None:
    (part,) = parts_of(out, "none.tar")
    assert part.footer.rows == 0
    part.file.unlink()
    assert verify(str(out)).exit_code == 5


def test_damage_wins_over_missing_parts(out: Path) -> None:
    first, second, _ = parts_of(out, "a.tar")
    first.file.unlink()
    second.file.write_bytes(b"")
    found = verify(str(out))
    assert {finding.kind for finding in found.findings} == {"missing", "damaged"}
    assert (found.state, found.exit_code) == ("damaged", 7)


def test_part_twice_under_another_name(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    name = PartName.parse(part.file.name, part.file.stat().st_size)
    assert name is not None
    twin = part.file.with_name(str(replace(name, rows=3, max_rows=0)))
    shutil.copy(part.file, twin)
    found = verify(str(out))
    assert_damaged(found, f"masks/{twin.name}", "its footer says")


def test_parts_that_overlap(out: Path) -> None:
    """Both in order by themselves."""
    overlapping(parts_of(out, "a.tar")[0])
    found = verify(str(out))
    assert any("covers indices" in finding.problem for finding in found.findings)
    assert found.exit_code == 7


def test_part_behind_the_last(out: Path) -> None:
    part = parts_of(out, "a.tar")[-1]
    name = PartName.parse(part.file.name, part.file.stat().st_size)
    assert name is not None
    shutil.copy(part.file, part.file.with_name(str(replace(name, first=name.stop))))
    assert verify(str(out)).exit_code == 7


@pytest.mark.parametrize("name", ["notes.txt", "sub/x.parquet", f"{'0' * 24}-0000000000-00002-last.parquet"])
def test_file_that_is_no_part(out: Path, name: str) -> None:
    file = out / "masks" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"")
    assert_damaged(verify(str(out)), f"masks/{name}", "no planned source" if "0000" in name else "not the name of a part")


# What a part says of itself.


def test_other_fingerprint(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    part.write(fingerprint="0" * 64)
    assert_damaged(verify(str(out)), part.object, "other settings")


@pytest.mark.parametrize(("what", "other"), [("engine", "openvino 2025.1"), ("labels", "1")])
def test_a_part_of_another_engine_or_version_of_the_labels(out: Path, what: str, other: str) -> None:
    part = parts_of(out, "a.tar")[0]
    part.write(versions=part.footer.versions | {what: other})
    assert_damaged(verify(str(out)), part.object, f"made with {what} {other}")


def test_row_with_the_wrong_shard(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    part.write([part.rows[0], part.rows[1] | {"shard": "/elsewhere.tar"}])
    assert_damaged(verify(str(out)), part.object, "/elsewhere.tar #1 is not in its range")


def test_row_with_the_wrong_index(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    part.write([part.rows[0], part.rows[1] | {"index": 2}])
    assert_damaged(verify(str(out)), part.object, "#2 is not in its range")


def test_row_twice(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    part.write([part.rows[0], part.rows[0]])
    assert_damaged(verify(str(out)), part.object, "#0 is there twice")


def test_row_of_another_image(out: Path) -> None:
    first, second = parts_of(out, "plan")[:2]
    second.write([second.rows[0], first.rows[-1]])
    assert_damaged(verify(str(out)), second.object, "is not in its range")


def test_row_that_is_gone(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    part.write(part.rows[:1], masks=1)
    assert_damaged(verify(str(out)), part.object, "it has no row of")


def test_mask_that_is_a_failure_too(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    failure = Failure("0001", part.footer.source["uri"], 0, "decode", "CorruptImage", "x", 1)
    part.write(failures=(failure,))
    assert_damaged(verify(str(out)), part.object, "#0 is there twice")


def test_row_count_of_the_footer(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    part.write(masks=1)
    assert_damaged(verify(str(out)), part.object, "2 rows; its footer says 1")


@pytest.mark.parametrize("name", ["pixels", "pixels_by_class", "images_by_class", "histograms"])
def test_sums_of_the_footer(out: Path, name: str) -> None:
    part = parts_of(out, "a.tar")[0]
    value = getattr(part.footer, name)
    if name == "histograms":
        lie: Any = np.roll(value, 1, axis=0)
    else:
        lie = value + 1 if name == "pixels" else (value[0] + 1, *value[1:])
    part.write(**{name: lie})
    assert_damaged(verify(str(out)), part.object, name.replace("_", " "))


def test_null_where_a_value_must_be(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    part.write([part.rows[0] | {"mask": {"bytes": None, "path": None}}, part.rows[1]])
    assert_damaged(verify(str(out)), part.object, "null")


def test_other_columns(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    rows = [row | {"confidence": row["mask"]} for row in part.rows]
    part.write(rows)
    assert_damaged(verify(str(out)), part.object, "columns")


# Derived files.


def test_class_stats_that_lie(out: Path) -> None:
    file = out / "class_stats.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0]["pixels"] += 1
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file, compression="zstd", write_page_checksum=True)
    assert_derived(verify(str(out)), "class_stats.parquet", "not the sums")


def test_class_stats_that_are_gone(out: Path) -> None:
    (out / "class_stats.parquet").unlink()
    assert_derived(verify(str(out)), "class_stats.parquet", "gone")


@pytest.mark.parametrize("name", ["images", "masks", "failures", "broken_shards"])
def test_count_that_lies(out: Path, name: str) -> None:
    change_run(out, lambda run: run["counts"].update({name: 99}))
    assert_derived(verify(str(out)), "run.json", f"counts.{name} is 99")


@pytest.mark.parametrize("name", ["labels_digest", "fingerprint"])
def test_digest_that_lies(out: Path, name: str) -> None:
    change_run(out, lambda run: run.update({name: "0" * 64}))
    assert_derived(verify(str(out)), "run.json", name)


@pytest.mark.parametrize("text", [None, "", '{"state": "comp', "[]", '{"state": "complete", "counts": 3}'])
def test_run_json_that_is_no_run(out: Path, text: str | None) -> None:
    (out / "run.json").unlink() if text is None else (out / "run.json").write_text(text)
    found = verify(str(out))
    assert {(finding.object, finding.kind) for finding in found.findings} == {("run.json", "derived")}
    assert found.exit_code == 7


def test_run_that_was_not_summed_up(out: Path) -> None:
    """Killed between the last part and the derived files: the same command goes on."""
    change_run(out, lambda run: run.update({"state": "running"}))
    (out / "class_stats.parquet").unlink()
    found = verify(str(out))
    assert (only(found).object, found.exit_code) == ("run.json", 5)


def test_failures_that_are_gone(out: Path) -> None:
    file = next((out / "failures").iterdir())
    file.unlink()
    assert_derived(verify(str(out)), f"failures/{file.name}", "gone")


def test_failures_that_lie(out: Path) -> None:
    part = parts_of(out, "bad.tar")[-1]
    (failure,) = part.footer.failures
    lie = replace(part.footer, failures=(replace(failure, message="all is well"),))
    (out / "failures" / part.file.name).write_bytes(failures_bytes(lie))
    assert_derived(verify(str(out)), f"failures/{part.file.name}", "not the failures")


@pytest.mark.parametrize("name", ["of a part without", "of no part", "notes.txt"])
def test_failures_too_many(out: Path, name: str) -> None:
    names = {"of a part without": parts_of(out, "a.tar")[0].file.name, "of no part": f"{'0' * 24}-0000000000-00002.parquet"}
    name = names.get(name, name)
    shutil.copy(next((out / "failures").iterdir()), out / "failures" / name)
    assert_derived(verify(str(out)), f"failures/{name}", "no part has these failures")


# The plan.


def test_damaged_plan(out: Path) -> None:
    (out / "plan" / "00000.parquet").write_bytes(b"PAR1")
    found = verify(str(out))
    assert_damaged(found, "plan/00000.parquet", "cannot be read")
    assert found.advice is not None
    assert "restore plan/" in found.advice


def test_plan_file_that_is_gone(out: Path) -> None:
    assert (out / "plan" / "00001.parquet").exists()
    (out / "plan" / "00000.parquet").unlink()
    found = verify(str(out))
    assert {finding.object for finding in found.findings} == {"plan/00000.parquet", "plan/00001.parquet"}
    assert found.exit_code == 7


def test_plan_with_settings_that_lie(out: Path) -> None:
    file = out / "plan" / "00001.parquet"
    table = pq.read_table(file)
    lie = json.loads(table.schema.metadata[b"maskfleet"]) | {"fingerprint": "0" * 64}
    pq.write_table(
        table.replace_schema_metadata({"maskfleet": json.dumps(lie)}), file, compression="zstd", write_page_checksum=True
    )
    assert_damaged(verify(str(out)), "plan/00001.parquet", "fingerprint")


def test_parts_without_a_plan(out: Path) -> None:
    shutil.rmtree(out / "plan")
    assert_damaged(verify(str(out)), "plan/00000.parquet", "gone")


def test_images_that_are_planned_anew(source: Path, tmp_path: Path) -> None:
    """The row of the later plan file counts; parts that still hold the earlier one are damage until they are made again."""
    folder = Path(shutil.copytree(source / "single", tmp_path / "single"))
    label([folder], tmp_path / "out")
    (folder / "0000.jpg").write_bytes(photos(1)[0][1])
    label([folder], tmp_path / "out", relabel_changed=True)
    obsolete = parts_of(tmp_path / "out", "plan/00000")[0]
    found = verify(str(tmp_path / "out"))
    assert_damaged(found, obsolete.object, "0000.jpg #0 is not in its range")
    obsolete.file.unlink()
    (tmp_path / "out" / "failures" / obsolete.file.name).unlink()
    label([folder], tmp_path / "out")
    found = verify(str(tmp_path / "out"), deep=True)
    assert (found.state, found.images) == ("whole", 5)


def test_shard_that_is_planned_anew(source: Path, tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    shutil.copy(source / "a.tar", shard)
    label([shard], tmp_path / "out")
    obsolete = parts_of(tmp_path / "out", "a.tar")
    shard.write_bytes(tar_bytes(photos(3)))
    label([shard], tmp_path / "out", relabel_changed=True)
    found = verify(str(tmp_path / "out"))
    assert {finding.object for finding in found.findings} == {part.object for part in obsolete}
    assert {finding.problem for finding in found.findings} == {"a part of no planned source"}
    for part in obsolete:
        part.file.unlink()
    assert verify(str(tmp_path / "out")).state == "whole"


# `--deep`: checksums and sums are in order, the pixels are not.


def assert_only_deep(out: Path, part: Part, problem: str) -> None:
    assert verify(str(out)).state == "whole"
    assert_damaged(verify(str(out), deep=True), part.object, problem)


def png(mask: Any, mode: str, **options: Any) -> Row:
    """A mask's PNG in another way than maskfleet's own."""
    from io import BytesIO

    buffer = BytesIO()
    Image.fromarray(mask).convert(mode).save(buffer, "PNG", **options)
    return {"bytes": buffer.getvalue(), "path": None}


def with_mask(part: Part, change: Callable[[Any], Row]) -> list[Row]:
    return [part.rows[0] | {"mask": change(decode_png(part.rows[0]["mask"]["bytes"]).copy())}, *part.rows[1:]]


DIFFERENT_MASKS: dict[str, tuple[Callable[[Any], Row], str]] = {
    "of another size": (lambda mask: {"bytes": encode_mask(mask[:-1].copy()), "path": None}, "is 64x47, its row says 64x48"),
    "gray": (lambda mask: {"bytes": encode_gray(mask), "path": None}, "no 8-bit index PNG"),
    "RGB": (lambda mask: png(mask, "RGB"), "no 8-bit index PNG"),
    "of another palette": (lambda mask: png(mask, "P"), "palette"),
    "no PNG": (lambda _: {"bytes": b"no PNG", "path": None}, "no 8-bit index PNG"),
    "half": (lambda mask: {"bytes": encode_mask(mask)[:-40], "path": None}, "cannot be decoded"),
    "of unknown classes": (lambda mask: {"bytes": encode_mask(mask * 0 + 200), "path": None}, "class that the run does not have"),
    "of other pixels": (lambda mask: {"bytes": encode_mask(mask[::-1, ::-1].copy()), "path": None}, ""),
}


@pytest.mark.parametrize("name", DIFFERENT_MASKS)
def test_other_mask(out: Path, name: str) -> None:
    change, problem = DIFFERENT_MASKS[name]
    part = parts_of(out, "a.tar")[0]
    part.write(with_mask(part, change))
    assert_only_deep(out, part, problem)


def test_bbox_that_lies(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    classes = part.rows[0]["classes"]
    lie = [classes[0] | {"bbox": classes[0]["bbox"] | {"width": 1}}, *classes[1:]]
    part.write([part.rows[0] | {"classes": lie}, *part.rows[1:]])
    assert_only_deep(out, part, "classes are not those of the mask")


def test_fraction_that_lies(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    classes = part.rows[0]["classes"]
    part.write([part.rows[0] | {"classes": [classes[0] | {"fraction": 0.125}, *classes[1:]]}, *part.rows[1:]])
    assert_only_deep(out, part, "classes are not those of the mask")


def test_ignored_fraction_that_lies(out: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    part.write([part.rows[0] | {"ignored_fraction": 0.5}, *part.rows[1:]])
    assert_only_deep(out, part, "ignored_fraction")


def test_digest_of_a_part_that_lies(out: Path) -> None:
    """Told to `run.json` too, so that the sums agree."""
    part = parts_of(out, "a.tar")[0]
    rows = [row | {"mask": {"bytes": encode_mask(decode_png(row["mask"]["bytes"])), "path": None}} for row in part.rows]
    lie = add_digests([int(part.footer.digest, 16), 1])
    part.write(rows, digest=lie)
    assert_derived(verify(str(out)), "run.json", "labels_digest")
    run = json.loads((out / "run.json").read_text())
    change_run(out, lambda values: values.update({"labels_digest": add_digests([run["labels_digest"], 1])}))
    assert_only_deep(out, part, "labels_digest")


def test_mask_with_its_digest_that_lies(out_mapped: Path) -> None:
    """A pixel of low confidence has changed places with one of high confidence, and every sum stays as it was."""
    part = parts_of(out_mapped, "a.tar")[0]
    mask = decode_png(part.rows[0]["mask"]["bytes"]).copy()
    y, x = np.argwhere(mask == 255)[0]
    kept = np.argwhere(mask != 255)[0]
    mask[y, x], mask[kept[0], kept[1]] = mask[kept[0], kept[1]], 255
    row = part.rows[0] | {"mask": {"bytes": encode_mask(mask), "path": None}}
    before = row_digest(row["shard"], row["index"], decode_png(part.rows[0]["mask"]["bytes"]))
    digest = add_digests([int(part.footer.digest, 16) - before + row_digest(row["shard"], row["index"], mask)])
    part.write([row, *part.rows[1:]], digest=digest)
    assert_damaged(verify(str(out_mapped), deep=True), part.object, "ignores other pixels")


@pytest.mark.parametrize("name", ["mean_confidence", "classes"])
def test_mean_confidence_that_lies(out_mapped: Path, name: str) -> None:
    part = parts_of(out_mapped, "a.tar")[0]
    lie: Any = 0.25
    if name == "classes":
        lie = [part.rows[0]["classes"][0] | {"mean_confidence": 0.25}, *part.rows[0]["classes"][1:]]
    part.write([part.rows[0] | {name: lie}, *part.rows[1:]])
    assert_only_deep(out_mapped, part, name)


@pytest.mark.parametrize("change", ["size", "values", "mode"])
def test_other_confidence_map(out_mapped: Path, change: str) -> None:
    part = parts_of(out_mapped, "a.tar")[0]
    levels = decode_png(part.rows[0]["confidence"]["bytes"])
    changed = {
        "size": encode_gray(levels[:, :-1].copy()), "values": encode_gray(levels[::-1].copy()), "mode": encode_mask(levels),
    }  # fmt: skip
    part.write([part.rows[0] | {"confidence": {"bytes": changed[change], "path": None}}, *part.rows[1:]])
    problem = {"size": "is 63x48", "values": "", "mode": "no 8-bit gray PNG"}[change]
    assert_only_deep(out_mapped, part, problem)


def test_histograms_that_lie(out_mapped: Path) -> None:
    part = parts_of(out_mapped, "a.tar")[0]
    lie = part.footer.histograms.copy()
    row, level = np.argwhere(lie[:, 200:254])[0] + (0, 200)
    lie[row, level] -= 1
    lie[row, level + 1] += 1
    part.write(histograms=lie)
    found = verify(str(out_mapped), deep=True)
    assert_damaged(found, part.object, "histograms are not those of its confidence maps")


# The job.


def run_job(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    return result.exit_code, result.output


def test_job_whole(labelled: Path, tmp_path: Path) -> None:
    code, text = run_job(labelled, "--deep", "--json", tmp_path / "found.json")
    assert code == 0
    assert text.splitlines() == ["images    16", "masks     13", "failures  3", "parts     11", "verify: whole"]
    assert json.loads((tmp_path / "found.json").read_text()) == {
        "images": 16, "masks": 13, "failures": 3, "parts": 11, "findings": [], "state": "whole", "exit_code": 0,
    }  # fmt: skip


def test_job_incomplete(out: Path, tmp_path: Path) -> None:
    part = parts_of(out, "a.tar")[0]
    part.file.unlink()
    code, text = run_job(out, "--json", tmp_path / "found.json")
    assert code == 5
    assert "same segment command again" in text.splitlines()[-1]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["state"] == "incomplete"
    assert found["findings"] == [
        {"object": part.footer.source["uri"], "problem": "no part has indices 0 to 1", "kind": "missing"}
    ]


def test_job_damaged_prints_at_most_20_findings(out: Path, tmp_path: Path) -> None:
    for number in range(25):
        (out / "masks" / f"{number}.txt").touch()
    code, text = run_job(out, "--json", tmp_path / "found.json")
    lines = text.splitlines()
    assert code == 7
    assert (len(lines), lines[-2]) == (4 + 20 + 2, "and 5 more")
    assert lines[-1].startswith("verify: damaged; masks/ holds what this maskfleet did not write")
    assert len(json.loads((tmp_path / "found.json").read_text())["findings"]) == 25


@pytest.mark.parametrize("name", ["nothing", "folder", "file"])
def test_job_nothing_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    code, text = run_job(tmp_path / name)
    assert code == 4
    assert len(text.splitlines()) == 1


def test_job_wrong_usage(labelled: Path) -> None:
    assert run_job()[0] == 2
    assert run_job(labelled, "--deeper")[0] == 2
    assert run_job(labelled, "--json", "/nowhere/found.json")[0] == 2


def test_debug_shows_where(tmp_path: Path) -> None:
    code, text = run_job(tmp_path, "--debug")
    assert code == 4
    assert "Traceback" in text
    assert text.splitlines()[-1].startswith("pipeline.errors.NotReachable: ")


def test_ray_is_not_needed(labelled: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom pipeline.verify.verify import verify\n"
        "assert verify(sys.argv[1], deep=True).state == 'whole'\n"
        "assert not {'ray', 'torch', 'openvino'} & sys.modules.keys()"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code, str(labelled)], check=True, cwd=root)


def test_s3(labelled: Path, s3: "S3Server") -> None:
    s3.make_bucket("verify")
    out = "s3://verify/runs/one"
    store = writable_store_for(out)
    for file in labelled.rglob("*.*"):
        if file.is_file() and ".tmp" not in file.parts:
            store.replace(join(out, str(file.relative_to(labelled))), file.read_bytes())
    assert verify(out + "/", deep=True).state == "whole"
    part = parts_of(labelled, "a.tar")[0]
    store.replace(join(out, part.object), part.file.read_bytes()[:-1])
    assert_damaged(verify(out), part.object, "cannot be read")
    store.delete(join(out, part.object))
    assert verify(out).exit_code == 5
    with pytest.raises(NotReachable):
        verify(out + "/nothing")
