"""Five unlike inputs for the forecast: small and big photographs, tars, Parquet, files, and a dirty mixture on S3."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.benchmarks.photographs import spread, tar_bytes
from pipeline.storage import join, writable_store_for

BIG = (4000, 3000)
BIG_IN_SMALL = 15  # one costs about as much as so many small ones
_QUALITY = 90
_DAMAGED_OF = 33  # one in so many: 3 %
_SHARD_IMAGES = 250
_ROW_GROUP = 100


@dataclass(frozen=True, slots=True)
class Input:
    """One input: what it is, where it lies, how many images it holds."""

    name: str
    uri: str
    images: int


def write_inputs(folder: str, bucket: str | None, photographs: Sequence[bytes], images: int) -> Iterator[Input]:
    """Each input once it is written: `images` small photographs, or as many big ones as take about as long."""
    few = max(2, images // BIG_IN_SMALL)
    photographs = varied(photographs, images)
    big = [enlarged(data) for data in spread(photographs, few)]
    yield Input("small photographs in tars", _write(folder, "small", tars(photographs, images)), images)
    yield Input("12-megapixel photographs in tars", _write(folder, "big", tars(big, few, max(1, few // 8))), few)
    yield Input("Parquet with an image column", _write(folder, "parquet", parquets(photographs, images)), images)
    yield Input("single files in a folder", _write(folder, "files", files(photographs, images)), images)
    if bucket is not None:
        uri = _write(bucket, "mixture", mixture(damaged(photographs), images))
        yield Input("a mixture on S3, 3 % damaged", uri, images)


def varied(photographs: Sequence[bytes], images: int) -> list[bytes]:
    """As many, no two alike: each repetition shows a little less, at the same size. Equal masks would compress to nothing."""
    found = list(photographs[:images])
    for number in range(len(found), images):
        with Image.open(io.BytesIO(photographs[number % len(photographs)])) as image:
            cut = 1 + number // len(photographs) % (min(image.size) // 2)
            box = (cut, cut // 2, image.width, image.height - cut // 3)
            sink = io.BytesIO()
            image.convert("RGB").resize(image.size, Image.Resampling.BILINEAR, box).save(sink, "JPEG", quality=_QUALITY)
            found.append(sink.getvalue())
    return found


def enlarged(data: bytes) -> bytes:
    """The photograph as a camera would give it: 12 megapixels, JPEG."""
    sink = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        upright = BIG if image.width >= image.height else BIG[::-1]
        image.convert("RGB").resize(upright, Image.Resampling.BICUBIC).save(sink, "JPEG", quality=_QUALITY)
    return sink.getvalue()


Named = Iterator[tuple[str, bytes]]


def tars(data: Sequence[bytes], images: int, a_tar: int = _SHARD_IMAGES) -> Named:
    """`images` of the endless repetition of `data`."""
    for number, first in enumerate(range(0, images, a_tar)):
        yield f"{number:05d}.tar", tar_bytes(data, first, min(images, first + a_tar))


def parquets(data: Sequence[bytes], images: int) -> Named:
    """The same in Parquet, one binary column and an id."""
    for number, first in enumerate(range(0, images, _SHARD_IMAGES)):
        rows = range(first, min(images, first + _SHARD_IMAGES))
        table = pa.table({"id": [f"{row:08d}" for row in rows], "image": [data[row % len(data)] for row in rows]})
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=_ROW_GROUP, compression="none", write_page_checksum=True)
        yield f"{number:05d}.parquet", sink.getvalue()


def files(data: Sequence[bytes], images: int) -> Named:
    """The same as single files, a thousand a folder."""
    for row in range(images):
        yield f"{row // 1000:04d}/{row:08d}.jpg", data[row % len(data)]


def mixture(data: Sequence[bytes], images: int) -> Named:
    """A half in tars, a quarter in Parquet, a quarter as single objects."""
    for kind, named in (("tars", tars(data, images - images // 4 * 2)), ("parquet", parquets(data, images // 4))):
        yield from ((f"{kind}/{name}", held) for name, held in named)
    yield from ((f"files/{name}", held) for name, held in files(data, images // 4))


def damaged(photographs: Sequence[bytes]) -> list[bytes]:
    """The same, one in 33 cut in half."""
    return [
        data[: len(data) // 2] if number % _DAMAGED_OF == _DAMAGED_OF // 2 else data for number, data in enumerate(photographs)
    ]


def _write(place: str, name: str, named: Named) -> str:
    uri = join(place, name)
    for path, data in named:
        target = join(uri, path)
        if place.startswith("s3://"):
            writable_store_for(target).replace(target, data)
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).write_bytes(data)  # flushing each would take longer than the benchmark
    return uri
