"""Single images: one object each, fetched a few ahead, in order."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.errors import (
    BadImage,
    DeniedImage,
    HostUnreachable,
    ImageTooLarge,
    MissingImage,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUnreachable,
    StorageError,
)  # fmt: skip
from pipeline.shards.base import ENCODED_AHEAD_BYTES, Cursor, EncodedImage, ReadOptions, Shard
from pipeline.storage import store_for
from pipeline.storage.answers import Answers

FETCHES_AHEAD = 8
UNTOLD_BYTES = ENCODED_AHEAD_BYTES // FETCHES_AHEAD  # at most, ahead, of an image whose size no listing has told
_DOUBT = " (and nothing else can be read there now: are the credentials right, is the disk mounted?)"
_FINAL = (ObjectMissing, ObjectDenied, HostUnreachable)


def read_images(
    rows: Iterable[tuple[int, Shard]], options: ReadOptions, answers: Answers | None = None
) -> Iterator[EncodedImage]:
    """The images of `(row of the plan file, image)`; what is gone, denied or unreachable for good is an error of that row.

    What may be the fault of the whole store is raised (see `Answers`).
    """
    answers, most = answers or Answers(), options.max_encoded_bytes
    pending: deque[tuple[int, Shard, Future[bytes]]] = deque()
    with ThreadPoolExecutor(FETCHES_AHEAD, "fetch") as threads:

        def oldest() -> EncodedImage:
            row, image, future = pending.popleft()
            if image.size is None and most > UNTOLD_BYTES and isinstance(future.exception(), ImageTooLarge):
                future = threads.submit(_fetch, image, most)  # its turn has come
            return _read(row, image, future, answers, pending)

        try:
            for row, image in rows:
                while pending and _bytes_ahead(image, most) + sum(_bytes_ahead(each, most) for _, each, _ in pending) > (
                    ENCODED_AHEAD_BYTES
                ):
                    yield oldest()
                ahead = min(most, UNTOLD_BYTES) if image.size is None else most
                pending.append((row, image, threads.submit(_fetch, image, ahead)))
                if len(pending) > FETCHES_AHEAD:
                    yield oldest()
            while pending:
                yield oldest()
        finally:
            for _, _, future in pending:
                future.cancel()


def _bytes_ahead(image: Shard, max_encoded_bytes: int) -> int:
    """That fetching this image may take; what is too large is not fetched."""
    if image.size is None:
        return min(UNTOLD_BYTES, max_encoded_bytes)
    return image.size if image.size <= max_encoded_bytes else 0


def _fetch(image: Shard, max_encoded_bytes: int) -> bytes:
    if image.size is not None and image.size > max_encoded_bytes:
        raise ImageTooLarge(f"{image.size} bytes encoded; the limit is {max_encoded_bytes}")
    try:
        return store_for(image.fetch_uri).read(image.fetch_uri, 0, None, image.version, max_encoded_bytes)
    except ObjectTooLarge as error:
        raise ImageTooLarge(f"more than {max_encoded_bytes} bytes encoded, which is the limit") from error


def _read(
    row: int, image: Shard, fetched: Future[bytes], answers: Answers, ahead: Iterable[tuple[int, Shard, Future[bytes]]]
) -> EncodedImage:
    data: bytes | None = None
    error: BadImage | None = None
    try:
        data = fetched.result()
        answers.heard(image.fetch_uri)
    except ImageTooLarge as too_large:
        error = too_large
    except StorageError as failed:
        if not isinstance(failed, _FINAL):
            raise
        for _, other, future in ahead:
            if (outcome := future.exception()) is None:
                answers.heard(other.fetch_uri)
            elif isinstance(outcome, ObjectMissing | ObjectDenied):
                answers.spoke(other.fetch_uri)
        if not answers.is_its_own(image.fetch_uri, failed, signed=image.secret is not None):
            raise StorageError(f"{failed}{_DOUBT}", failed.code) from failed
        error = _failure(failed)
    return EncodedImage(
        shard=image.uri, index=0, image_id=image.image_id or image.uri, after=Cursor(row + 1), data=data,
        bytes_length=image.size if data is None else len(data), member=None,
        offset=None if data is None else 0, length=None if data is None else len(data), error=error,
    )  # fmt: skip


def _failure(error: StorageError) -> BadImage:
    """The row of an object that cannot be had for good."""
    if isinstance(error, ObjectMissing):
        return MissingImage("no such object")
    if isinstance(error, HostUnreachable):
        return ObjectUnreachable(f"its host cannot be reached: {error.code}")
    return DeniedImage("access denied" + (f" (HTTP {error.code})" if error.code not in ("", "403") else ""))
