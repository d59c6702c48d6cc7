"""What maskfleet asks of a store."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import NotExclusive, ObjectDenied, UsageError
from pipeline.storage.uris import join

PAGE = 1000  # names that S3 lists in one answer
SCRATCH = ".tmp"  # in an output: what is not a part of it yet


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing names it.

    `size` is in bytes; `version` is `etag:…` or `mtime:…` (nanoseconds). Both are None where
    the server names neither.
    """

    uri: str
    size: int | None
    version: str | None


def same_version(one: str, other: str) -> bool:
    """Do two versions name one object? Of ETags the quotes and the mark of weak ones are no part: stores set and drop them."""
    return _bare(one) == _bare(other)


def _bare(version: str) -> str:
    kind, _, tag = version.partition(":")
    return "etag:" + tag.removeprefix("W/").strip('"') if kind == "etag" else version


class Store(Protocol):
    """A place that holds objects, named by URI. Errors are those of `pipeline.errors`."""

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below a folder or prefix, in order, page by page. Nothing there: nothing."""
        ...

    def stat(self, uri: str) -> ObjectInfo:
        """Size and version of one object. Raises `ObjectMissing`, `ObjectDenied`, `StorageError`."""
        ...

    def read(
        self, uri: str, start: int = 0, length: int | None = None, version: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        """`length` bytes from `start` (None: to the end) of the object that has this version.

        Raises `ObjectChanged` where the version is another, `StorageError` for a short answer. max_bytes: that a whole object
        may have; a longer one is not read, and raises `ObjectTooLarge`.
        """
        ...


class WritableStore(Store, Protocol):
    """A store that outputs may go to: it can create exclusively.

    walks_prefixes: `walk` takes the beginning of a name, too, and asks for a page of `PAGE` names at a time.
    """

    walks_prefixes: bool

    def names(self, prefix: str, old_s: float = 0.0) -> Iterator[str]:
        """Base names of the objects in one folder that begin with this prefix (folder and all).

        old_s: so many seconds old may the answer be, if the store has to list the whole folder for it.
        """
        ...

    def create(self, uri: str, data: bytes) -> str | None:
        """Write the object if there is none, whole or not at all; -> its version, as listings name it, or None if there is one.

        Raises `NotExclusive`.
        """
        ...

    def require_exclusive_create(self, out: str) -> None:
        """Try whether `create` holds what it says in this output. Raises `UsageError`; leaves nothing."""
        ...

    def replace(self, uri: str, data: bytes) -> str:
        """Write the object, whole or not at all, over what is there; -> its version."""
        ...

    def replace_if(self, uri: str, data: bytes, before: bytes | None) -> bool:
        """Write the object over these bytes (None: over nothing); False, and nothing written: something else is there."""
        ...

    def sweep(self, out: str) -> None:
        """Remove what killed attempts left half-written, once a run is complete."""
        ...

    def delete(self, uri: str) -> None:
        """Remove the object; no error if there is none."""
        ...


_PREFIX = "probe-"
_AT_ONCE, _ROUNDS = 3, 3


def require_exclusive_create(store: WritableStore, out: str, advice: str) -> None:
    """Create one object in `out` several times, at once and then again: one may win. Leaves nothing.

    At once, as some stores look first and write later: SeaweedFS 4.16 let all of three requests win. A store is refused after
    several rounds, as an attempt that starts in the same second takes this one's probe for one that was left, and removes it.
    Raises `UsageError`, which ends with `advice`.
    """
    folder = join(out, SCRATCH)
    for left in list(store.names(join(folder, _PREFIX))):  # of an attempt that was killed
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
