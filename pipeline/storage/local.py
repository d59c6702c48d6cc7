"""Files on this machine, or on a file system that all nodes mount."""

import errno
import fcntl
import os
import shutil
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from stat import S_ISREG

from pipeline.errors import NotExclusive, ObjectChanged, ObjectDenied, ObjectMissing, ObjectTooLarge, StorageError, UsageError
from pipeline.storage.base import SCRATCH, ObjectInfo, require_exclusive_create

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}  # `link` without hard links
_ADVICE = "gcsfuse, exFAT and some SMB shares have none: take a disk or NFS, or s3:// for a bucket, and copy from there"
_LOCK_TRIES, _LOCK_PAUSE_S = 50, 0.01


def _translated(error: OSError, path: str) -> StorageError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ObjectMissing(f"no such file: {path}")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return ObjectDenied(f"permission denied: {path}")
    if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):  # no file can have this name
        return ObjectMissing(f"{error.strerror}: {path}")
    if isinstance(error, IsADirectoryError):
        return ObjectMissing(f"a folder, not a file: {path}")
    return StorageError(f"{error.strerror or error}: {path}")


def _version(status: os.stat_result) -> str:
    return f"mtime:{status.st_mtime_ns}"


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Lock a folder; after half a second go on without: the holder may be stopped, and some network mounts have no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_S)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


class LocalStore:
    """Plain absolute paths; the commit is a hard link, which never overwrites."""

    walks_prefixes = False

    def __init__(self) -> None:
        self._listed: dict[str, tuple[float, list[str]]] = {}  # folder -> when it was listed, and its names

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """Files below a folder, each folder sorted by name. Links are followed, but each real folder is listed once."""
        yield from self._walk(prefix, set())

    def _walk(self, folder: str, seen: set[tuple[int, int]]) -> Iterator[ObjectInfo]:
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _translated(error, folder) from error
        for entry in found:
            try:
                if entry.is_dir():
                    yield from self._walk(entry.path, seen)
                else:
                    status = entry.stat()
                    if S_ISREG(status.st_mode):
                        yield ObjectInfo(entry.path, status.st_size, _version(status))
            except OSError as error:
                failed = _translated(error, entry.path)
                if not isinstance(failed, ObjectMissing):  # a link to nothing or to itself, or a file that has just gone
                    raise failed from error

    def names(self, prefix: str, old_s: float = 0.0) -> Iterator[str]:
        """Names in the folder of `prefix` that begin with its last component. Lists the whole folder."""
        folder, _, beginning = prefix.rpartition("/")
        listed = self._listed.get(folder)
        if listed is None or time.monotonic() - listed[0] >= old_s:
            now = time.monotonic()  # before the listing: files that arrive while it runs may be missing
            try:
                listed = now, sorted(os.listdir(folder or "/"))
            except FileNotFoundError:
                return
            except OSError as error:
                raise _translated(error, folder) from error
            if old_s:
                self._listed[folder] = listed
        for name in islice(listed[1], bisect_left(listed[1], beginning), None):
            if not name.startswith(beginning):
                return
            yield name

    def stat(self, uri: str) -> ObjectInfo:
        """Size and mtime of a regular file."""
        try:
            status = os.stat(uri)
        except OSError as error:
            raise _translated(error, uri) from error
        if not S_ISREG(status.st_mode):
            raise ObjectMissing(f"not a regular file: {uri}")
        return ObjectInfo(uri, status.st_size, _version(status))

    def read(
        self, uri: str, start: int = 0, length: int | None = None, version: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        """`length` bytes from `start`. The version is that of the open file, not of the name."""
        try:
            descriptor = os.open(uri, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block
            try:
                status = os.fstat(descriptor)
                if not S_ISREG(status.st_mode):
                    raise ObjectMissing(f"not a regular file: {uri}")
                if version is not None and version != _version(status):
                    raise ObjectChanged(f"changed since it was listed: {uri}")
                if max_bytes is not None and status.st_size > max_bytes:
                    raise ObjectTooLarge(f"{status.st_size} bytes: {uri}")
                with open(descriptor, "rb", closefd=False) as file:
                    file.seek(start)
                    data = file.read() if length is None else file.read(length)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _translated(error, uri) from error
        if length is not None and len(data) < length:
            raise ObjectChanged(f"shorter than it was listed: {uri}")
        return data

    def create(self, uri: str, data: bytes) -> str | None:
        """Flush a scratch file to disk, then hard-link it; -> its version, or None if the name is taken."""
        try:
            return self._place(uri, data, os.link)
        except FileExistsError:
            return None
        except OSError as error:
            if error.errno in _NO_LINKS:  # here EPERM, though a PermissionError, means: no hard links
                raise NotExclusive(f"no hard links here ({error.strerror}), and a part is committed by one: {uri}") from error
            raise _translated(error, uri) from error

    def require_exclusive_create(self, out: str) -> None:
        """Raise `UsageError` if there are no hard links."""
        try:
            require_exclusive_create(self, out, _ADVICE)
        except UsageError:
            self.sweep(out)
            with suppress(OSError):  # if it is not empty, it was there before
                os.rmdir(out)
            raise

    def replace(self, uri: str, data: bytes) -> str:
        """Flush a scratch file to disk, then rename it over the name."""
        try:
            return self._place(uri, data, os.replace)
        except OSError as error:
            raise _translated(error, uri) from error

    def replace_if(self, uri: str, data: bytes, before: bytes | None) -> bool:
        """Compare, then rename over the name. If the file system has locks, no other process compares in between."""
        if before is None:
            return self.create(uri, data) is not None

        def place(scratch: str, target: str) -> None:
            with _locked(os.path.dirname(target)):
                try:
                    there = self.read(target)
                except ObjectMissing:
                    there = None
                if there != before:
                    raise FileExistsError(errno.EEXIST, "another was there first", target)
                os.replace(scratch, target)

        try:
            self._place(uri, data, place)
        except FileExistsError:
            return False
        except OSError as error:
            raise _translated(error, uri) from error
        return True

    def _place(self, uri: str, data: bytes, place: Callable[[str, str], None], tries: int = 3) -> str:
        scratch = self._scratch(uri, data)
        try:
            version = _version(os.stat(scratch))  # the inode keeps this mtime, whatever happens to the name from here on
            place(scratch, uri)
        except FileNotFoundError:  # another attempt has completed the run, and swept
            if tries == 1:
                raise
            return self._place(uri, data, place, tries - 1)
        finally:
            with suppress(OSError):
                os.unlink(scratch)
        self._sync_folder(uri)
        return version

    def sweep(self, out: str) -> None:
        """Remove `OUT/.tmp/`. An attempt that is writing there writes its file again."""
        shutil.rmtree(Path(out) / SCRATCH, ignore_errors=True)

    def delete(self, uri: str) -> None:
        """Remove a file."""
        try:
            os.unlink(uri)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _translated(error, uri) from error

    def _scratch(self, uri: str, data: bytes) -> str:
        """A new flushed file in `OUT/.tmp/`, on the file system of `uri`."""
        folder = Path(uri).parent
        run = folder.parent if folder.name in ("masks", "failures", "plan", SCRATCH) else folder
        path = run / SCRATCH / f"{uuid.uuid4().hex}-{os.getpid()}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise _translated(error, uri) from error
        return str(path)

    @staticmethod
    def _sync_folder(uri: str) -> None:
        descriptor = os.open(os.path.dirname(uri), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError:  # some file systems cannot flush a folder; the file itself is safe
            pass
        finally:
            os.close(descriptor)
