"""Different inputs for the forecast: photographs in tars, and a mixture of all kinds of sources."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.bench import tar_of
from pipeline.storage import join, writable_store_for

_QUALITY = 90
_DAMAGED_OF = 33  # one of so many photographs is damaged: 3 %
_SHARD_IMAGES = 60
_ROW_GROUP = 20

Named = Iterator[tuple[str, bytes]]


def varied(photographs: Sequence[bytes], images: int) -> list[bytes]:
    """So many photographs, no two alike: each repetition shows a little less, at the same size.

    Equal masks would compress to nothing.
    """
    found = list(photographs[:images])
    for number in range(len(found), images):
        with Image.open(io.BytesIO(photographs[number % len(photographs)])) as image:
            cut = 1 + number // len(photographs) % (min(image.size) // 2)
            box = (cut, cut // 2, image.width, image.height - cut // 3)
            sink = io.BytesIO()
            image.convert("RGB").resize(image.size, Image.Resampling.BILINEAR, box).save(sink, "JPEG", quality=_QUALITY)
            found.append(sink.getvalue())
    return found


def damaged(photographs: Sequence[bytes]) -> list[bytes]:
    """These photographs, but one of 33 is cut in half."""
    return [
        data[: len(data) // 2] if number % _DAMAGED_OF == _DAMAGED_OF // 2 else data for number, data in enumerate(photographs)
    ]


def tars(data: Sequence[bytes]) -> Named:
    """All photographs in tars."""
    for number, first in enumerate(range(0, len(data), _SHARD_IMAGES)):
        yield f"{number:05d}.tar", tar_of(data, first, min(len(data), first + _SHARD_IMAGES))


def parquets(data: Sequence[bytes]) -> Named:
    """All photographs in Parquet: a binary column, and an id."""
    for number, first in enumerate(range(0, len(data), _SHARD_IMAGES)):
        rows = range(first, min(len(data), first + _SHARD_IMAGES))
        table = pa.table({"id": [f"{row:08d}" for row in rows], "image": [data[row] for row in rows]})
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=_ROW_GROUP, compression="none", write_page_checksum=True)
        yield f"{number:05d}.parquet", sink.getvalue()


def mixture(data: Sequence[bytes]) -> Named:
    """Half of the photographs in tars, a quarter in Parquet, a quarter as single files."""
    half, rest = len(data) // 2, len(data) // 4
    yield from ((f"tars/{name}", held) for name, held in tars(data[:half]))
    yield from ((f"parquet/{name}", held) for name, held in parquets(data[half : half + rest]))
    yield from ((f"files/{row:08d}.jpg", held) for row, held in enumerate(data[half + rest :]))


def write(place: str, named: Named) -> str:
    """Write these objects below a folder or an `s3://` prefix -> the place."""
    for path, data in named:
        target = join(place, path)
        if place.startswith("s3://"):
            writable_store_for(target).replace(target, data)
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).write_bytes(data)
    return place
