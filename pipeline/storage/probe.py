"""Does a store create an object only if there is none? All that a run promises rests on it; some stores do not."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from pipeline.errors import NotExclusive, ObjectDenied, UsageError
from pipeline.storage.base import SCRATCH, WritableStore
from pipeline.storage.uris import join

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
