"""Is an error the fault of one object, or of its whole store? Only an object's own fault may become a failure for good."""

import errno
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice

from pipeline.errors import (
    ForbiddenAddress,
    HostUnreachable,
    NotReachable,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    StorageError,
)  # fmt: skip
from pipeline.storage import scheme_of, store_for
from pipeline.storage.uris import WEB, expires_at, signer_of, without_secrets

FINAL = (ObjectMissing, ObjectDenied, HostUnreachable)  # these may be an object's own fault
DEAD_S = 60.0  # so long an unreachable host is not asked again, if other hosts answered
_REMEMBERED = 4  # objects per store that were read lately, to be asked for again
_STORES = 64  # remembered at most: a list may name a million hosts, and each folder of files counts as a store
_NEIGHBOURS = 8  # objects beside the one in doubt that are tried at most
_PROBE_S = 60.0  # after so long no further object is tried

_HF_KINDS = frozenset({"buckets", "datasets", "kernels", "models", "spaces"})  # the first name of a path; models need none
Candidates = Callable[[str], Iterable[str]]  # URI of an object in doubt -> other objects to try


def nothing(_uri: str) -> Iterable[str]:
    """No candidates."""
    return ()


class Answers:
    """What the stores have lately answered to this process, and what they answer if they are asked again.

    With an expired token, a wrong role, an unmounted disk or a dead network, every object looks denied or gone. So an object
    is denied, gone or unreachable for good only if its store answered for another object after that. Safe in threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: OrderedDict[str, dict[str, float]] = OrderedDict()  # store -> objects read, and when; the latest last
        self._hosts: deque[str] = deque(maxlen=_REMEMBERED)  # hosts of the web that answered, with whatever status
        self._dead: OrderedDict[str, tuple[float, str]] = OrderedDict()  # hosts of the web: until when, and the error code

    def heard(self, uri: str) -> None:
        """The bytes of this object were read just now."""
        root = store_root(uri)
        with self._lock:
            read = self._read.setdefault(root, {})
            self._read.move_to_end(root)
            read.pop(uri, None)
            read[uri] = time.monotonic()
            if len(read) > _REMEMBERED:
                del read[next(iter(read))]
            if len(self._read) > _STORES:
                self._read.popitem(last=False)
        self.spoke(uri)

    def spoke(self, uri: str) -> None:
        """The web host of this object has answered, if only to say no. No effect for other stores."""
        if not _is_web(uri):
            return
        root = store_root(uri)
        with self._lock:
            self._dead.pop(root, None)
            if root not in self._hosts:
                self._hosts.append(root)

    def is_its_own(
        self, uri: str, error: StorageError, *, since: float, signed: bool = False, was_there: bool = False,
        candidates: Candidates = nothing,
    ) -> bool:  # fmt: skip
        """Is the error this object's own, for good? The caller then asks for the object once more: the store may have recovered.

        uri: as it is fetched. since: when the error came (monotonic, seconds).
        signed: the query or the user of the URI holds the credentials.
        was_there: a listing has seen the object. Such a file counts as gone only if a file that a worker has read, or a
        candidate, can still be read: if a disk is not mounted, other files may lie in its place.
        candidates: other planned objects, with files as they were planned; tried if no other object answers.
        """
        if isinstance(error, ForbiddenAddress):
            return True
        if not isinstance(error, FINAL):
            return False
        if not isinstance(error, HostUnreachable):
            self.spoke(uri)
        needs_credentials = signed and isinstance(error, ObjectDenied)
        if needs_credentials and (expiry := expires_at(uri)) is not None and expiry <= time.time():
            return False
        answers_for = _Answering(uri, error, signed=needs_credentials)
        was_file = was_there and scheme_of(uri) == "file" and isinstance(error, ObjectMissing)
        with self._lock:
            read = {other: at for read in self._read.values() for other, at in reversed(read.items()) if answers_for(other)}
            hosts = [] if needs_credentials else [host for host in self._hosts if _is_web(uri) and host != store_root(uri)]
        if any(at >= since for at in read.values()):
            return True
        if isinstance(error, ObjectMissing) and (_can_be_no_file(uri) if was_file else _lists_without(uri)):
            return True
        until = time.monotonic() + _PROBE_S
        neighbours = () if was_file else islice(_neighbours(uri), _NEIGHBOURS)
        others = (other for some in (read, neighbours, _lazily(candidates, uri)) for other in some)
        if any(time.monotonic() < until and self._reads(other) for other in others if answers_for(other)):
            return True
        return any(time.monotonic() < until and _speaks(host) for host in hosts)

    def _reads(self, uri: str) -> bool:
        """Can this object be read now?"""
        try:
            if _is_web(uri):  # a server without ranges would send the whole object
                store_for(uri).read(uri, max_bytes=1)
            else:
                store_for(uri).read(uri, 0, 1)
        except ObjectTooLarge:
            pass
        except (StorageError, NotReachable):
            return False
        if scheme_of(uri) != "file":  # a file may be a neighbour that nobody has planned
            self.heard(uri)
        return True

    def says_again(self, uri: str) -> bool:
        """Ask once more, now that the store is known to answer: is the object still missing, denied or unreachable?"""
        try:
            store_for(uri).read(uri, 0, 1)
        except FINAL:
            return True
        except StorageError:
            return False
        return False

    def bury(self, uri: str, error: StorageError) -> None:
        """The host of this object is unreachable, while others answer: its other objects need not wait for it."""
        with self._lock:
            self._dead[store_root(uri)] = time.monotonic() + DEAD_S, error.code
            if len(self._dead) > _STORES * _STORES:
                self._dead.popitem(last=False)

    def dead(self, uri: str) -> HostUnreachable | None:
        """The error for an object whose host was unreachable a moment ago; else None."""
        with self._lock:
            until, code = self._dead.get(store_root(uri), (0.0, ""))
        return HostUnreachable(f"{code}: its host was unreachable a moment ago", code) if time.monotonic() < until else None


class _Answering:
    """Does a good read of another object tell that the store of this object answers?

    - File: the other file must lie on the same disk. If this file is gone, and its folder is gone or empty, the other file must
      also lie below the last folder on the way that exists: a disk may be mounted there.
    - Web: any host tells that the network works. But if the credentials in the URL of this object were denied, the other
      object must have the same host and credentials.
    """

    def __init__(self, uri: str, error: StorageError, *, signed: bool) -> None:
        self._uri, self._root = uri, store_root(uri)
        self._signer = signer_of(uri) if signed else None
        self._any_host = _is_web(uri) and not signed
        self._is_file, self._is_gone = scheme_of(uri) == "file", isinstance(error, ObjectMissing)
        path = os.path.realpath(uri) if self._is_file else ""
        self._folder = last_folder(path) if self._is_file else ""
        # If its own folder is there and not empty, no disk is missing there: any planned file of this disk tells.
        self._is_mounted = self._folder == os.path.dirname(path) and _folder_holds_others(path, hidden=False)

    def __call__(self, other: str) -> bool:
        if other == self._uri:
            return False
        if self._any_host:
            return _is_web(other)
        if self._is_file:
            return scheme_of(other) == "file" and self._is_on_its_disk(os.path.realpath(other))
        return store_root(other) == self._root and (self._signer is None or signer_of(other) == self._signer)

    def _is_on_its_disk(self, other: str) -> bool:
        if self._is_gone and not self._is_mounted and not other.startswith(self._folder.rstrip("/") + "/"):
            return False
        try:
            return os.stat(other).st_dev == os.stat(self._folder).st_dev
        except OSError:
            return False


def last_folder(path: str) -> str:
    """The deepest folder above a file that exists."""
    while (path := os.path.dirname(path)) != "/" and not os.path.isdir(path):
        pass
    return path


def _lazily(candidates: Candidates, uri: str) -> Iterator[str]:
    with suppress(StorageError):
        yield from candidates(uri)


def store_root(uri: str) -> str:
    """The store that answers for an object with the same credentials; for a file its folder, as its disk may be unmounted.

    A store is named by scheme and host or bucket; on Azure by container and account, on Hugging Face by repository.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return os.path.dirname(uri)
    if scheme_of(uri) in WEB:
        return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"
    parts = without_secrets(uri).partition("://")[2].split("/")
    if scheme_of(uri) != "hf":
        return f"{scheme}://{parts[0]}"
    names = parts[: 3 if parts[0] in _HF_KINDS else 2]
    return f"{scheme}://{'/'.join([*names[:-1], names[-1].partition('@')[0]])}"  # without the revision


def _is_web(uri: str) -> bool:
    return scheme_of(uri) in WEB


def _speaks(host: str) -> bool:
    """Does a host of the web answer at all?"""
    try:
        store_for(host).stat(f"{host}/")
    except (ObjectMissing, ObjectDenied):
        return True
    except StorageError:
        return False
    return True


def _lists_without(uri: str) -> bool:
    """Can the store list its objects, and is this object not among them? Then the object is gone.

    On S3 it is enough that the listing of this key succeeds without it: listing a missing or closed bucket fails. A folder
    must hold another file: an empty folder may be the place of an unmounted disk.
    """
    if _is_web(uri):
        return False
    if scheme_of(uri) == "file":
        return _can_be_no_file(uri) or _folder_holds_others(os.path.realpath(uri))  # a link may lead to an unmounted disk
    try:
        if scheme_of(uri) == "s3":
            return all(info.uri != uri for info in islice(store_for(uri).walk(uri), 1))
        return any(True for _ in islice(_neighbours(uri), 1))
    except StorageError:
        return False


def _folder_holds_others(path: str, *, hidden: bool = True) -> bool:
    with suppress(OSError), os.scandir(os.path.dirname(path)) as entries:
        return any(entry.path != path and entry.is_file() and (hidden or not entry.name.startswith(".")) for entry in entries)
    return False


def _can_be_no_file(uri: str) -> bool:
    """Is no such file possible, whatever disk is mounted? A folder of its path is a file, the name is too long, or links loop."""
    if scheme_of(uri) != "file":
        return False
    try:
        os.scandir(os.path.dirname(os.path.realpath(uri))).close()
    except OSError as error:
        return error.errno in (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
    return False


def _neighbours(uri: str) -> Iterator[str]:
    """Objects beside this one, if its store can be listed."""
    if _is_web(uri):
        return
    with suppress(StorageError):
        for info in store_for(uri).walk(uri.rpartition("/")[0] + "/"):
            if info.uri != uri:
                yield info.uri
