"""Single images: one object each, fetched a few ahead, in order."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.errors import (
    BadImage,
    DeniedImage,
    ForbiddenAddress,
    ImageTooLarge,
    MissingImage,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    StorageError,
)  # fmt: skip
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, Shard
from pipeline.storage import store_for

FETCHES_AHEAD = 8


def read_images(rows: Iterable[tuple[int, Shard]], options: ReadOptions) -> Iterator[EncodedImage]:
    """The images of `(row of the plan file, image)`; what is gone or denied is an error of that row.

    A denial is the image's own only where the same store answers for another one: before that, or
    for one of those fetched ahead. Else it says that the credentials are wrong, and is raised.
    """
    answered: set[str] = set()
    pending: deque[tuple[int, Shard, Future[bytes]]] = deque()
    with ThreadPoolExecutor(FETCHES_AHEAD, "fetch") as threads:
        try:
            for row, image in rows:
                pending.append((row, image, threads.submit(_fetch, image, options.max_encoded_bytes)))
                if len(pending) > FETCHES_AHEAD:
                    yield _read(*pending.popleft(), answered, pending)
            while pending:
                yield _read(*pending.popleft(), answered, pending)
        finally:
            for _, _, future in pending:
                future.cancel()


def _fetch(image: Shard, max_encoded_bytes: int) -> bytes:
    if image.size is not None and image.size > max_encoded_bytes:
        raise ImageTooLarge(f"{image.size} bytes encoded; the limit is {max_encoded_bytes}")
    try:
        return store_for(image.fetch_uri).read(image.fetch_uri, 0, None, image.version, max_encoded_bytes)
    except ObjectTooLarge as error:
        raise ImageTooLarge(f"more than {max_encoded_bytes} bytes encoded, which is the limit") from error


def store_root(uri: str) -> str:
    """What answers for an object: scheme and host or bucket; for files the file system."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else "/"


def _answers(root: str, answered: set[str], ahead: Iterable[tuple[int, Shard, Future[bytes]]]) -> bool:
    """Has this store answered for another object, or does it for one that is being fetched?"""
    if root in answered or root == "/":
        return True
    for _, image, future in ahead:
        outcome = future.exception() if store_root(image.uri) == root else ObjectDenied("")
        if outcome is None or isinstance(outcome, ObjectMissing):
            answered.add(root)
            return True
    return False


def _read(
    row: int, image: Shard, fetched: Future[bytes], answered: set[str], ahead: Iterable[tuple[int, Shard, Future[bytes]]]
) -> EncodedImage:
    data: bytes | None = None
    error: BadImage | None = None
    root = store_root(image.uri)
    try:
        data = fetched.result()
        answered.add(root)
    except ImageTooLarge as too_large:
        error = too_large
    except ObjectMissing:
        answered.add(root)
        error = MissingImage("no such object")
    except ObjectDenied as denied:
        if not isinstance(denied, ForbiddenAddress) and not _answers(root, answered, ahead):
            raise StorageError(f"{denied} (and nothing else was readable there yet: are the credentials right?)") from denied
        error = DeniedImage("access denied")
    return EncodedImage(
        shard=image.uri, index=0, image_id=image.image_id or image.uri, after=Cursor(row + 1), data=data,
        bytes_length=image.size if data is None else len(data), member=None,
        offset=None if data is None else 0, length=None if data is None else len(data), error=error,
    )  # fmt: skip
