"""The photographs that benchmarks label: the six bundled ones, or those of a folder."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pipeline.errors import UsageError
from pipeline.shards.base import Cursor, ReadOptions, SourceObject
from pipeline.shards.tar import read_tar
from pipeline.storage import store_for

T = TypeVar("T")
SAMPLE = Path(__file__).parents[1] / "sample"
IMAGES_A_TAR = 500


def photographs(folders: Sequence[str] = ()) -> list[bytes]:
    """The JPEGs of these folders by name, else the bundled ones: encoded. Raises `UsageError` where there are none."""
    return [data for _, data in named_photographs(folders)]


def named_photographs(folders: Sequence[str] = ()) -> list[tuple[str, bytes]]:
    """The same as (stem of the file's name or key in the tar, encoded image)."""
    if not folders:
        return _bundled()
    found = [(file.stem, file.read_bytes()) for folder in folders for file in sorted(Path(folder).glob("*.jp*g"))]
    if not found:
        raise UsageError(f"--photos: no .jpg in {', '.join(folders)}")
    return found


def _bundled() -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for path in sorted(SAMPLE.glob("*.tar")):
        info = store_for(str(path.absolute())).stat(str(path.absolute()))
        shard = SourceObject(uri=info.uri, kind="tar", size=info.size, version=info.version)
        images = read_tar(store_for(info.uri), shard, Cursor(), ReadOptions())
        found += [(image.image_id, image.data) for image in images if image.data]
    return found


def write_tars(folder: Path, data: Sequence[bytes], images: int, *, images_a_tar: int = IMAGES_A_TAR) -> None:
    """`images` photographs, repeated in order, as WebDataset tars in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, first in enumerate(range(0, images, images_a_tar)):
        (folder / f"{shard:05d}.tar").write_bytes(tar_bytes(data, first, min(images, first + images_a_tar)))


def tar_bytes(data: Sequence[bytes], first: int, stop: int) -> bytes:
    """Images `first` to `stop` of the endless repetition of `data`, as one tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for index in range(first, stop):
            add_member(tar, data, index)
    return buffer.getvalue()


def add_member(tar: tarfile.TarFile, data: Sequence[bytes], index: int) -> None:
    """Image `index` of the endless repetition of `data`."""
    encoded = data[index % len(data)]
    member = tarfile.TarInfo(f"{index:08d}.jpg")
    member.size = len(encoded)
    tar.addfile(member, io.BytesIO(encoded))


def spread(data: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly spread over their order."""
    return list(data[:: max(1, len(data) // most)])[:most]
