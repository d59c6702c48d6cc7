"""`bench models|pipeline`, small: what is measured is sane; the photographs and tars are what they say."""

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.bench import markdown_table, photographs, tar_of, write_tars
from jobs.bench_models import COLUMNS, measure
from pipeline.errors import UsageError
from pipeline.image.decode import decode
from pipeline.model.cpu import has_bf16
from pipeline.model.zoo import DEFAULT_MODEL
from tests.conftest import Finished


def test_the_bundled_photographs_are_seven() -> None:
    found = photographs()
    assert len({name for name, _ in found}) == len(found) == 7
    assert all(data[:2] == b"\xff\xd8" for _, data in found)


def test_photographs_of_folders_come_by_name(tmp_path: Path) -> None:
    for name in ("b.jpeg", "a.jpg", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    assert photographs([str(tmp_path), str(tmp_path)]) == [("a", b"a.jpg"), ("b", b"b.jpeg")] * 2
    with pytest.raises(UsageError, match=r"--photos: no \.jpg in"):
        photographs([str(tmp_path / "none")])


def test_tars_hold_the_photographs_over_and_over(tmp_path: Path) -> None:
    write_tars(tmp_path / "in", [b"a" * 3000, b"b" * 700], 5, 2)
    sizes = []
    for file in sorted((tmp_path / "in").iterdir()):
        with tarfile.open(file) as tar:
            sizes.append([(member.name, member.size) for member in tar])
    assert [len(each) for each in sizes] == [2, 2, 1]
    assert sizes[2] == [("00000004.jpg", 3000)]
    with tarfile.open(fileobj=io.BytesIO(tar_of([b"a", b"bb"], 1, 3))) as tar:
        assert [member.size for member in tar] == [2, 1]


def test_a_table_is_padded() -> None:
    assert markdown_table(("a", "long"), [("longer", "1")]) == "| a      | long |\n| ------ | ---- |\n| longer | 1    |"


def test_a_network_is_measured_on_both_engines_and_agrees() -> None:
    images = [decode(data, max_source_pixels=1 << 30).image for _, data in photographs()[:2]]
    found = measure(DEFAULT_MODEL, images, 64, 2, 0.02)
    ways = {"torch fp32", "openvino fp32"} | ({"openvino bf16"} if has_bf16() else set())
    assert found.seconds.keys() == ways
    assert all(len(seconds) == 2 and 0 < min(seconds) < 1 for seconds in found.seconds.values())
    assert found.parameters == 3_221_538
    assert 0.999 < found.equal <= 1
    row = dict(zip(COLUMNS, found.row(), strict=True))
    assert row["M parameters"] == "3.22"
    assert row["published CPU s per image"] == "0.3278"
    assert float(row["torch fp32"]) > 1


@pytest.mark.slow
def test_bench_models_prints_a_row_per_network(job: Callable[..., Finished]) -> None:
    done = job("bench", "models", "--model", "lraspp_mobilenet_v3_small", "--short-side", 64, "--rounds", 1)
    assert done.code == 0, done.err
    assert len(re.findall(r"^\| lraspp_mobilenet_v3_small +\| 1\.08 ", done.out, re.MULTILINE)) == 1


def test_no_photographs_are_one_line(job: Callable[..., Finished], tmp_path: Path) -> None:
    done = job("bench", "pipeline", "--photos", tmp_path)
    assert done.code == 2
    assert done.err.splitlines() == [f"maskfleet: --photos: no .jpg in {tmp_path}"]


@pytest.mark.slow
def test_bench_pipeline_tells_speed_price_and_stages(job: Callable[..., Finished]) -> None:
    done = job("bench", "pipeline", "--images", 60, "--short-side", 64, "--usd-per-core-hour", 0.02)
    assert done.code == 0, done.err
    rows = dict(re.findall(r"^\| ([^|]+?) +\| ([\d.]+) +\|$", done.out, re.MULTILINE))
    speeds = [float(rows[f"images/s, {of}"]) for of in ("from the first image to the last", "with start-up and end")]
    assert 0 < speeds[1] < speeds[0]
    assert float(rows["USD for a million images at 0.02 per core hour"]) > 0
    assert float(rows["network, CPU ms per image"]) > 0
