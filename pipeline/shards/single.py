"""Single images, one object each: fetched a few ahead, yielded in order."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.errors import (
    BadImage,
    DeniedImage,
    HostUnreachable,
    ImageTooLarge,
    MissingImage,
    ObjectMissing,
    ObjectTooLarge,
    ObjectUnreachable,
    StorageError,
    UnknownScheme,
)  # fmt: skip
from pipeline.shards.base import ENCODED_AHEAD_BYTES, Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.storage import store_for
from pipeline.storage.answers import FINAL, Answers, Candidates, nothing

FETCHES_AHEAD = 8
UNTOLD_BYTES = ENCODED_AHEAD_BYTES // FETCHES_AHEAD  # fetched ahead at most, if no listing has told the size
_DOUBT = " (and nothing else can be read there now: are the credentials right, is the disk mounted?)"


class _Lost(Exception):
    """The error for an object that cannot be had, and when it came (monotonic, seconds)."""

    def __init__(self, error: StorageError) -> None:
        super().__init__(str(error))
        self.error, self.at = error, time.monotonic()


def read_images(
    rows: Iterable[tuple[int, SourceObject]],
    options: ReadOptions,
    answers: Answers | None = None,
    candidates: Candidates = nothing,
) -> Iterator[EncodedImage]:
    """The images of `(row of the plan file, image)`. If an image is gone, denied or unreachable for good, its row has an error.

    Raises `StorageError` if it may be the fault of the whole store: see `Answers.is_its_own`, also for `candidates`.
    """
    answers, max_bytes = answers or Answers(), options.max_encoded_bytes
    pending: deque[tuple[int, SourceObject, Future[bytes]]] = deque()
    with ThreadPoolExecutor(FETCHES_AHEAD, "fetch") as threads:

        def oldest() -> EncodedImage:
            row, image, future = pending.popleft()
            if image.size is None and max_bytes > UNTOLD_BYTES and isinstance(future.exception(), ImageTooLarge):
                future = threads.submit(_fetch, image, max_bytes, answers)  # its turn has come
            found = _fetched(future)
            if isinstance(found, _Lost):
                for _, _, ahead in pending:
                    ahead.exception()  # wait: later answers tell whose fault it is
                found = _asked_again(image, max_bytes, found, answers, candidates)
            return _encoded(row, image, found)

        try:
            for row, image in rows:
                while pending and _bytes_ahead(image, max_bytes) + sum(
                    _bytes_ahead(each, max_bytes) for _, each, _ in pending
                ) > (ENCODED_AHEAD_BYTES):
                    yield oldest()
                ahead = min(max_bytes, UNTOLD_BYTES) if image.size is None else max_bytes
                pending.append((row, image, threads.submit(_fetch, image, ahead, answers)))
                if len(pending) > FETCHES_AHEAD:
                    yield oldest()
            while pending:
                yield oldest()
        finally:
            for _, _, future in pending:
                future.cancel()


def _bytes_ahead(image: SourceObject, max_encoded_bytes: int) -> int:
    """Bytes that may be fetched ahead for this image; 0 if it is too large, as it is not fetched then."""
    if image.size is None:
        return min(UNTOLD_BYTES, max_encoded_bytes)
    return image.size if image.size <= max_encoded_bytes else 0


def _fetch(image: SourceObject, max_encoded_bytes: int, answers: Answers) -> bytes:
    if image.size is not None and image.size > max_encoded_bytes:
        raise ImageTooLarge(f"{image.size} bytes encoded; the limit is {max_encoded_bytes}")
    uri = image.fetch_uri
    if (dead := answers.dead(uri)) is not None:
        raise _Lost(dead)
    try:
        data = store_for(uri).read(uri, 0, None, image.version, max_encoded_bytes)
    except ObjectTooLarge as error:
        raise ImageTooLarge(f"more than {max_encoded_bytes} bytes encoded, which is the limit") from error
    except UnknownScheme as error:  # planned by a version that accepted this scheme
        raise ObjectUnreachable(str(error)) from error
    except FINAL as error:
        if not isinstance(error, HostUnreachable):
            answers.spoke(uri)
        raise _Lost(error) from error
    answers.heard(uri)
    return data


def _fetched(future: Future[bytes]) -> "bytes | BadImage | _Lost":
    try:
        return future.result()
    except (BadImage, _Lost) as error:
        return error


def _asked_again(
    image: SourceObject, max_encoded_bytes: int, lost: _Lost, answers: Answers, candidates: Candidates
) -> bytes | BadImage:
    """Bytes or failure of an object that could not be had. Raises `StorageError` if it may be the fault of the whole store.

    The object is asked for once more, after others have answered: else a moment without network would cost a label.
    """
    uri, signed = image.fetch_uri, image.secret is not None
    was_there = image.size is not None  # images that a list names have no size: nobody has looked at them
    if not answers.is_its_own(uri, lost.error, since=lost.at, signed=signed, was_there=was_there, candidates=candidates):
        raise StorageError(f"{lost.error}{_DOUBT}", lost.error.code) from lost.error
    if answers.dead(uri) is not None:
        return _failure(lost.error)
    try:
        return _fetch(image, max_encoded_bytes, answers)
    except BadImage as bad:
        return bad
    except _Lost as again:
        if isinstance(again.error, HostUnreachable):
            answers.bury(uri, again.error)
        return _failure(again.error)


def _encoded(row: int, image: SourceObject, found: bytes | BadImage) -> EncodedImage:
    data, error = (None, found) if isinstance(found, BadImage) else (found, None)
    return EncodedImage(
        shard=image.uri, index=0, image_id=image.image_id or image.uri, after=Cursor(row + 1), data=data,
        bytes_length=image.size if data is None else len(data), member=None,
        offset=None if data is None else 0, length=None if data is None else len(data), error=error,
    )  # fmt: skip


def _failure(error: StorageError) -> BadImage:
    """The failure of an object that cannot be had for good."""
    if isinstance(error, ObjectMissing):
        return MissingImage("no such object")
    if isinstance(error, HostUnreachable):
        return ObjectUnreachable(f"it cannot be reached: {error.code}")
    return DeniedImage("access denied" + (f" (HTTP {error.code})" if error.code not in ("", "403") else ""))
