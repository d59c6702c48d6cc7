"""Which images a worker has in hand, in a file that survives the worker."""

import fcntl
import mmap
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

DECODING, LABELLING, UNPACKING = 0, 1, 2  # slots, each for at most one image
_SLOTS = struct.Struct("<qqq")
_NONE = -1
_NOTHING = _SLOTS.pack(_NONE, _NONE, _NONE)
_SUFFIX = ".images"


@dataclass(frozen=True, slots=True)
class Held:
    """What a process had in hand when it died: positions of images, and of the row that it was unpacking from Parquet."""

    images: frozenset[int]
    unpacking: int | None

    @property
    def positions(self) -> frozenset[int]:
        """All positions, with the row that was unpacked."""
        return self.images if self.unpacking is None else self.images | {self.unpacking}


class InFlight:
    """The images of one source, by position, that this process unpacks, decodes and labels now, in a file.

    The file is mapped: an image costs no system call, and kill -9 loses nothing. The file is locked as long as this process
    lives: if another process can lock it, the process that made it has died.
    """

    def __init__(self, folder: Path, source: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{source}-{uuid.uuid4().hex}{_SUFFIX}"
        self._file = open(self._path, "xb+")  # noqa: SIM115 - stays open as long as the work lasts
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._file.write(_NOTHING)
            self._file.flush()
            self._map = mmap.mmap(self._file.fileno(), _SLOTS.size)
        except BaseException:  # for example a full disk
            self._path.unlink(missing_ok=True)
            with suppress(OSError):  # closing tries once more to write
                self._file.close()
            raise

    @contextmanager
    def hold(self, slot: int, position: int) -> Iterator[None]:
        """This image is in hand. If memory runs out meanwhile, the image stays written down, as if the process had died."""
        place = slice(8 * slot, 8 * slot + 8)
        self._map[place] = position.to_bytes(8, "little", signed=True)
        try:
            yield
        except MemoryError:
            raise
        except BaseException:
            self.let_go(slot)
            raise
        self.let_go(slot)

    def let_go(self, slot: int) -> None:
        """No image is in hand in this slot any more."""
        self._map[8 * slot : 8 * slot + 8] = _NONE.to_bytes(8, "little", signed=True)

    def close(self) -> None:
        """No image is in hand any more. The file stays only if memory ran out with an image in hand."""
        if self._map[:] == _NOTHING:
            self._path.unlink(missing_ok=True)
        self._map.close()
        self._file.close()


def left_behind(folder: Path, source: str) -> Iterator[tuple[Path, Held]]:
    """The files of this source whose processes died or ran out of memory, with the images that these had in hand."""
    for path in folder.glob(f"{source}-*{_SUFFIX}"):
        try:
            with open(path, "rb") as file:
                if _is_free(file):
                    data = file.read(_SLOTS.size)
                    held = _SLOTS.unpack(data) if len(data) == _SLOTS.size else (_NONE,) * 3
                    images = frozenset(held[slot] for slot in (DECODING, LABELLING) if held[slot] != _NONE)
                    yield path, Held(images, None if held[UNPACKING] == _NONE else held[UNPACKING])
        except FileNotFoundError:
            continue  # its process has just finished


def _is_free(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
