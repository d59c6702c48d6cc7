"""Which images a worker has in hand, in a file that survives the worker."""

import fcntl
import mmap
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

DECODING, LABELLING = 0, 1  # one thread each
_SLOTS = struct.Struct("<qq")
_NONE = -1
_SUFFIX = ".images"


class InFlight:
    """The images of one source, by position, that this process decodes and labels at this moment: at most one each.

    The file is mapped, so that an image costs no system call and a kill -9 loses nothing, and locked as long as
    this process lives: a file whose lock can be had was left behind by one that died.
    """

    def __init__(self, folder: Path, source: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{source}-{uuid.uuid4().hex}{_SUFFIX}"
        self._file = open(self._path, "xb+")  # noqa: SIM115 - open as long as the work lasts
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(_SLOTS.pack(_NONE, _NONE))
        self._file.flush()
        self._map = mmap.mmap(self._file.fileno(), _SLOTS.size)

    @contextmanager
    def hold(self, slot: int, position: int) -> Iterator[None]:
        """This image is in hand."""
        place = slice(8 * slot, 8 * slot + 8)
        self._map[place] = position.to_bytes(8, "little", signed=True)
        try:
            yield
        finally:
            self._map[place] = _NONE.to_bytes(8, "little", signed=True)

    def close(self) -> None:
        """Nothing is in hand any more."""
        self._path.unlink(missing_ok=True)
        self._map.close()
        self._file.close()


def left_behind(folder: Path, source: str) -> Iterator[tuple[Path, frozenset[int]]]:
    """The files of this source whose processes died, with the images that those had in hand."""
    for path in folder.glob(f"{source}-*{_SUFFIX}"):
        try:
            with open(path, "rb") as file:
                if _is_free(file):
                    data = file.read(_SLOTS.size)
                    held = _SLOTS.unpack(data) if len(data) == _SLOTS.size else ()
                    yield path, frozenset(position for position in held if position != _NONE)
        except FileNotFoundError:
            continue  # its process has just finished


def _is_free(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
