"""Whose fault is an error: of one object, or of its whole store? Only an object's own fault may become a failure for good."""

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from urllib.parse import parse_qsl, urlsplit

from pipeline.errors import ForbiddenAddress, HostUnreachable, ObjectDenied, ObjectMissing, StorageError
from pipeline.storage import scheme_of, store_for

FRESH_S = 5.0  # for so long an answer stands for those after it
_REMEMBERED = 4  # objects of a store that were read, to be asked for again
_NEIGHBOURS = 8  # of a denied object, that are tried


class Answers:
    """What the stores of a process have answered of late, and what they answer when they are asked again.

    An expired token, a wrong role, an unmounted disk or a dead network deny every object, or say that it is gone. So an object is
    denied, gone or unreachable for good only if its store answers for another one, at this moment. Safe in threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[str, dict[str, float]] = defaultdict(dict)  # by store: what was read of late, the latest last, and when
        self._listed: dict[str, float] = {}  # when a folder listed other objects
        self._hosts: deque[str] = deque(maxlen=_REMEMBERED)  # of the web, which answered; whatever they said

    def heard(self, uri: str) -> None:
        """The bytes of this object were read."""
        root = store_root(uri)
        with self._lock:
            read = self._read[root]
            read.pop(uri, None)
            read[uri] = time.monotonic()
            if len(read) > _REMEMBERED:
                del read[next(iter(read))]
        self.spoke(uri)

    def spoke(self, uri: str) -> None:
        """The host of this object of the web has answered, if only to say no."""
        root = store_root(uri)
        with self._lock:
            if _is_web(uri) and root not in self._hosts:
                self._hosts.append(root)

    def is_its_own(self, uri: str, error: StorageError, *, signed: bool = False) -> bool:
        """Is the error this object's own, for good? `uri` as it is fetched; signed: its query or user holds its credentials."""
        if isinstance(error, ForbiddenAddress):
            return True
        if not isinstance(error, ObjectMissing | ObjectDenied | HostUnreachable):
            return False
        if isinstance(error, ObjectMissing) and self._lists_others(uri):
            return True
        if _is_web(uri) and not (signed and isinstance(error, ObjectDenied)):
            return self._web_answers(uri, error)
        if (expiry := expires_at(uri)) is not None and expiry <= time.time():
            return False
        return self._store_answers(uri)

    def _lists_others(self, uri: str) -> bool:
        """Does its store list other objects beside it? Then what it says is gone is gone."""
        folder = uri.rpartition("/")[0]
        if time.monotonic() - self._listed.get(folder, -FRESH_S) < FRESH_S:
            return True
        if found := any(True for _ in islice(_neighbours(uri), 1)):
            self._listed[folder] = time.monotonic()
        return found

    def _store_answers(self, uri: str) -> bool:
        """Is another object of the same store readable now?"""
        others = self._others(lambda root, other: root == store_root(uri) and other != uri)
        return _is_fresh(others) or any(self._reads(other) for other in (*others, *islice(_neighbours(uri), _NEIGHBOURS)))

    def _others(self, wanted: Callable[[str, str], bool]) -> dict[str, float]:
        with self._lock:
            return {uri: at for root, read in self._read.items() for uri, at in reversed(read.items()) if wanted(root, uri)}

    def _reads(self, uri: str) -> bool:
        try:
            store_for(uri).read(uri, 0, 1)
        except StorageError:
            return False
        self.heard(uri)
        return True

    def _web_answers(self, uri: str, error: StorageError) -> bool:
        """Does another host answer, or this one for another object? Else the network may be gone."""
        mine = store_root(uri)
        if not isinstance(error, HostUnreachable):
            self.spoke(uri)
        with self._lock:
            hosts = [host for host in self._hosts if host != mine]
        others = self._others(lambda root, _: root != mine and _is_web(root))
        return _is_fresh(others) or self._store_answers(uri) or any(map(self._reads, others)) or any(map(_speaks, hosts))


def _is_fresh(read: dict[str, float]) -> bool:
    return any(time.monotonic() - at < FRESH_S for at in read.values())


def store_root(uri: str) -> str:
    """What answers for an object: scheme and host or bucket; for files their folder, as a disk may not be mounted."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}" if separator else os.path.dirname(uri)


def _is_web(uri: str) -> bool:
    return scheme_of(uri) in ("http", "https")


def _speaks(host: str) -> bool:
    """Does a host of the web answer at all?"""
    try:
        store_for(host).stat(f"{host}/")
    except (ObjectMissing, ObjectDenied):
        return True
    except StorageError:
        return False
    return True


def _neighbours(uri: str) -> Iterator[str]:
    """Objects beside this one, if its store can be listed."""
    if _is_web(uri):
        return
    with suppress(StorageError):
        for info in store_for(uri).walk(uri.rpartition("/")[0] + "/"):
            if info.uri != uri:
                yield info.uri


def expires_at(uri: str) -> float | None:
    """When a presigned URL expires, in Unix seconds; None if its query does not say."""
    query = dict(parse_qsl(urlsplit(uri).query)) if _is_web(uri) else {}
    for family in ("X-Amz", "X-Goog"):
        if f"{family}-Date" in query:
            with suppress(ValueError, OverflowError):
                signed = datetime.strptime(query[f"{family}-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return (signed + timedelta(seconds=int(query.get(f"{family}-Expires", "")))).timestamp()
    with suppress(ValueError):
        if "Expires" in query:
            return float(query["Expires"])
        if "se" in query:  # Azure
            until = datetime.fromisoformat(query["se"])
            return (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp()
    return None
