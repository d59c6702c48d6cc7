"""What every reader of a shard yields."""

from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.errors import BadImage
from pipeline.storage import Store

# A worker reads at most 256 MiB ahead, or one image if that is larger: these of encoded images, 16 in the chunks of
# `storage.stream`, 112 of images that wait for the network (`run.worker`).
ENCODED_AHEAD_BYTES = 128 << 20

SourceKind = Literal["tar", "parquet", "image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceObject:
    """One planned object: a shard, or a single image.

    `uri` is what is written down; `secret` is what only the fetching may know (a query, `user:password@`),
    as the whole URI to fetch, or None.
    """

    uri: str
    kind: SourceKind
    size: int | None
    version: str | None
    image_id: str | None = None
    secret: str | None = field(default=None, repr=False)  # nothing that shows a shard shows it

    @property
    def fetch_uri(self) -> str:
        """The URI to read from."""
        return self.secret or self.uri


def seen(store: Store, shard: SourceObject) -> SourceObject:
    """The shard with its size: one that was gone or closed when it was listed is asked for again. Raises as `stat` does."""
    if shard.size is not None:
        return shard
    info = store.stat(shard.fetch_uri)
    return replace(shard, size=info.size, version=info.version)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where in a shard to go on.

    index: of the next image. offset: byte offset of the next tar header, or None in Parquet, and in a tar if it is not known.
    previous: name of the last image member before it, which says whether a key goes on.
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
    """One image as it is stored, or why it cannot be had (`error`).

    `after` is where a reader goes on behind it. `ends_part`: a part must end here (a row group does).
    `breaks`: this row stands for the rest of a shard that is broken.
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
        """In its source: of a shard the index, of single images the row of the plan file."""
        return self.after.index - 1

    @property
    def name(self) -> str:
        """Of its file: as its tar or Parquet file names it, else its own URI."""
        return self.member or self.shard
