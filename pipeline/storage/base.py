"""What maskfleet asks of a store."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import NotExclusive, ObjectDenied, UsageError
from pipeline.storage.uris import join

PAGE = 1000  # S3 lists so many names in one answer
SCRATCH = ".tmp"  # a folder in an output, for files that are not written to their end yet


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing names it.

    `size` is in bytes, or None if the server does not say it. `version` is `etag:…` or `mtime:…` (nanoseconds), or None if the
    server names neither.
    """

    uri: str
    size: int | None
    version: str | None


def same_version(one: str, other: str) -> bool:
    """Do two versions name one object? Quotes and the mark `W/` of an ETag do not count: stores set and drop them."""
    return _bare(one) == _bare(other)


def _bare(version: str) -> str:
    kind, _, tag = version.partition(":")
    return "etag:" + tag.removeprefix("W/").strip('"') if kind == "etag" else version


class Store(Protocol):
    """A place that holds objects, named by URI. Errors are those of `pipeline.errors`."""

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below a folder or prefix, in order, page by page. An empty or missing folder gives none."""
        ...

    def stat(self, uri: str) -> ObjectInfo:
        """Size and version of one object. Raises `ObjectMissing`, `ObjectDenied`, `StorageError`."""
        ...

    def read(
        self, uri: str, start: int = 0, length: int | None = None, version: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        """`length` bytes from `start` (None: to the end) of the object that has this version.

        max_bytes: the largest size of a whole object; a larger object is not read, and raises `ObjectTooLarge`.
        Raises `ObjectChanged` if the version is another, `StorageError` if the answer is too short.
        """
        ...


class WritableStore(Store, Protocol):
    """A store that outputs may go to, because it can create an object exclusively: only if there is none.

    walks_prefixes: `walk` also takes the beginning of a name, and asks for a page of `PAGE` names at a time.
    """

    walks_prefixes: bool

    def names(self, prefix: str, old_s: float = 0.0) -> Iterator[str]:
        """Base names of the objects whose path begins with `prefix`: a folder, and the beginning of a base name.

        old_s: how many seconds old the answer may be, if the store has to list the whole folder for it.
        """
        ...

    def create(self, uri: str, data: bytes) -> str | None:
        """Write the object, whole or not at all, if there is none; -> its version, as listings name it, or None if there is one.

        Raises `NotExclusive`.
        """
        ...

    def require_exclusive_create(self, out: str) -> None:
        """Test whether `create` is exclusive in this output. Leaves no object. Raises `UsageError` if it is not."""
        ...

    def replace(self, uri: str, data: bytes) -> str:
        """Write the object, whole or not at all, over an older one if there is one; -> its version."""
        ...

    def replace_if(self, uri: str, data: bytes, before: bytes | None) -> bool:
        """Write the object if `before` is there now (None: if there is none); False if something else is there, and stays."""
        ...

    def sweep(self, out: str) -> None:
        """Remove half-written files of killed attempts, after a run is complete."""
        ...

    def delete(self, uri: str) -> None:
        """Remove the object; no error if there is none."""
        ...


_PREFIX = "probe-"
_AT_ONCE, _ROUNDS = 3, 3


def require_exclusive_create(store: WritableStore, out: str, advice: str) -> None:
    """Create one object in `out` by several requests at once, and then once more: only one request may win. Leaves no object.

    The requests run at once, because some stores look first and write later: SeaweedFS 4.16 let all three requests win.
    A store is refused only after several tries: another attempt that starts in the same second may take the object of this
    test for an old one, and remove it. Raises `UsageError`, which ends with `advice`.
    """
    folder = join(out, SCRATCH)
    for left in list(store.names(join(folder, _PREFIX))):  # an attempt was killed in its test
        _remove(store, join(folder, left))
    for _ in range(_ROUNDS):
        uri = join(folder, _PREFIX + uuid.uuid4().hex)
        try:
            if _winners(store, uri) == 1 and not store.create(uri, b"once more"):
                return
        except NotExclusive as error:
            raise UsageError(f"--output: {error}; {advice}") from error
        finally:
            _remove(store, uri)
    raise UsageError(f"--output: of several that create one object there not one alone wins: {out}; {advice}")


def _winners(store: WritableStore, uri: str) -> int:
    def created(number: int) -> bool:
        return store.create(uri, b"%d" % number) is not None

    with ThreadPoolExecutor(_AT_ONCE, "probe") as threads:
        return sum(threads.map(created, range(_AT_ONCE)))


def _remove(store: WritableStore, uri: str) -> None:
    with suppress(ObjectDenied):  # a run needs no right to delete
        store.delete(uri)
