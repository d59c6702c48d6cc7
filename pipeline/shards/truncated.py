"""Truncated shards: one row for a rest that nobody can count, or one row per image up to where another part begins."""

from collections.abc import Iterator

from pipeline.errors import BadImage, BrokenShard
from pipeline.shards.base import Cursor, EncodedImage, SourceObject


def truncation(shard: SourceObject, at: Cursor, reason: str) -> EncodedImage:
    """The row that stands for the rest of a shard, from `at` on."""
    return EncodedImage(
        shard=shard.uri, index=at.index, image_id=f"{shard.uri}#{at.index}", after=at, error=BrokenShard(reason), truncated=True
    )


def to_the_stop(images: Iterator[EncodedImage], shard: SourceObject, start: Cursor, stop: int | None) -> Iterator[EncodedImage]:
    """The images of a shard up to index `stop`, and one more, which tells that the shard goes on. stop None: up to its end.

    A part begins at `stop`, so there were images up to it, whatever the shard shows now. If the shard is now truncated before
    `stop`, each of the missing images is a failure, and `stop` is not the end of the shard.
    """
    position = start
    error: BadImage
    for image in images:
        if image.truncated and stop is not None and image.index < stop:
            assert image.error is not None
            error = image.error
            break
        position = image.after
        yield image
        del image  # else this image stays in memory beside the next one
        if stop is not None and position.index > stop:
            return
    else:
        if stop is None or position.index >= stop:
            return
        error = BrokenShard(f"the shard ends before image {stop}, where it went on before")
    for index in range(position.index, stop):
        image_id, after = f"{shard.uri}#{index}", Cursor(index + 1)  # its offset in a tar is not known
        yield EncodedImage(shard=shard.uri, index=index, image_id=image_id, after=after, error=error)
