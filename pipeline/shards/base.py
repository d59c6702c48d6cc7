"""What readers of shards take and yield: source objects, cursors, options, encoded images."""

from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.errors import BadImage
from pipeline.storage import Store

# A worker reads at most 256 MiB ahead, or one image if it is larger: 128 MiB of encoded single images (this limit), 16 MiB in
# the chunks of `range_file`, 112 MiB of resized images that wait for the network (`worker.reading`).
ENCODED_AHEAD_BYTES = 128 << 20

SourceKind = Literal["tar", "parquet", "image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceObject:
    """One planned object: a shard, or a single image.

    uri: as it is written down, without secrets. secret: the whole URI to fetch, if it differs (a query, `user:password@`); it
    is never written down. size: bytes, or None if it is not known. version: as in `ObjectInfo`. image_id: of a single image.
    """

    uri: str
    kind: SourceKind
    size: int | None
    version: str | None
    image_id: str | None = None
    secret: str | None = field(default=None, repr=False)  # so that no text about a shard shows it

    @property
    def fetch_uri(self) -> str:
        """The URI to read from."""
        return self.secret or self.uri


def seen(store: Store, shard: SourceObject) -> SourceObject:
    """The shard with its size. Asks the store if the listing had none, as the shard was gone or closed. Raises as `stat` does."""
    if shard.size is not None:
        return shard
    info = store.stat(shard.fetch_uri)
    return replace(shard, size=info.size, version=info.version)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where in a shard to go on.

    index: number of the next image. offset: byte offset of the next tar header; None in Parquet, and in a tar if not known.
    previous: name of the last image member before it: if the next member has the same key, the two are ambiguous.
    """

    index: int = 0
    offset: int | None = None
    previous: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """The flags that say what in a shard is an image, and how much of one is read."""

    image_ext: str | None = None
    image_column: str | None = None
    id_column: str | None = None
    max_encoded_bytes: int = 716 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """One image as it is stored, or the `error` that says why its bytes cannot be had.

    after: where a reader goes on after this image. ends_part: a part must end here, because a row group ends.
    truncated: this row stands for the rest of a shard that cannot be read any further.
    """

    shard: str
    index: int
    image_id: str
    after: Cursor
    data: bytes | None = None
    bytes_length: int | None = None
    member: str | None = None
    offset: int | None = None
    length: int | None = None
    error: BadImage | None = None
    ends_part: bool = False
    truncated: bool = False

    @property
    def position(self) -> int:
        """The position in its source: the index in a shard, or the row of a single image in its plan file."""
        return self.after.index - 1

    @property
    def name(self) -> str:
        """The file name of the image: as its tar or Parquet file says, else its own URI."""
        return self.member or self.shard
