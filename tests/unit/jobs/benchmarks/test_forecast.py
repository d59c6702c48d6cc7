"""The five inputs hold what they say, and the table says how far off a forecast was."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.benchmarks import forecast, metered_s3
from jobs.benchmarks.unlike_inputs import BIG, Input, damaged, enlarged, mixture, parquets, varied, write_inputs
from pipeline.errors import BadImage
from pipeline.image.decode import decode
from pipeline.listing.listing import Listing, list_inputs
from pipeline.shards.base import Cursor, ReadOptions
from pipeline.shards.tar import read_tar
from pipeline.storage import store_for
from tests.support.corpus import jpeg


def images_of(each: Input) -> int:
    count = 0
    for shard in list_inputs((each.uri,), Listing()):
        if shard.kind == "tar":
            count += sum(1 for _ in read_tar(store_for(shard.uri), shard, Cursor(), ReadOptions()))
        else:
            count += pq.ParquetFile(shard.uri).metadata.num_rows if shard.kind == "parquet" else 1
    return count


def test_inputs_hold_as_many_images_as_they_say(tmp_path: Path) -> None:
    inputs = list(write_inputs(str(tmp_path), None, [jpeg(1), jpeg(2)], 40))
    assert [each.images for each in inputs] == [40, 2, 40, 40]
    assert [images_of(each) for each in inputs] == [40, 2, 40, 40]


def test_big_photographs_have_twelve_megapixels() -> None:
    with Image.open(io.BytesIO(enlarged(jpeg(1)))) as image:
        assert image.size in (BIG, BIG[::-1])
        assert image.format == "JPEG"


def test_no_two_photographs_are_alike_and_all_keep_their_size() -> None:
    found = varied([jpeg(1), jpeg(2)], 9)
    assert len(set(found)) == 9
    sizes = [Image.open(io.BytesIO(data)).size for data in found]
    assert sizes == [sizes[number % 2] for number in range(9)]


def test_three_percent_of_the_mixture_are_damaged() -> None:
    data = damaged([jpeg(1)] * 330)
    names = [name for name, _ in mixture(data, 200)]
    assert {name.partition("/")[0] for name in names} == {"tars", "parquet", "files"}
    broken = 0
    for each in data:
        try:
            decode(each, max_source_pixels=1 << 30)
        except BadImage:
            broken += 1
    assert broken / len(data) == pytest.approx(0.03, abs=0.002)
    assert sum(pq.read_table(io.BytesIO(held)).num_rows for _, held in parquets(data, 300)) == 300


def test_the_server_counts_what_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    with metered_s3.metered_s3(tmp_path, "counted") as server:
        before = server.requests()
        files = s3fs.S3FileSystem(
            key=server.environment["AWS_ACCESS_KEY_ID"], secret=server.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=server.environment["AWS_ENDPOINT_URL_S3"], skip_instance_cache=True, use_listings_cache=False,
        )  # fmt: skip
        files.pipe_file("counted/a", b"abc")
        assert files.cat_file("counted/a") == b"abc"
        asked = server.requests() - before
        assert asked["PUT"] == 1
        assert asked["GET"] >= 1


def test_the_report_counts_what_is_within_the_goal() -> None:
    found: dict[str, Any] = {
        "input": "small", "images": 10, "dry_run_s": 30.0,
        "forecast": {"seconds": 44.0, "objects": 9, "bytes": 2_000_000},
        "real": {"seconds": 40.0, "objects": 9, "bytes": 1_500_000},
        "difference": {"seconds": 0.1, "objects": 0.0, "bytes": 1 / 3},
    }  # fmt: skip
    here = {"cpu": "c", "instruction_set": "i", "cores": 2, "python": "3", "versions": {}}
    text = forecast._report([found], 10, ["--short-side", "64"], here).to_markdown()
    assert "2 of 3 figures within 10%" in text
    assert "44.0 s / 40.0 s (+10.0%)" in text
