"""A Parquet shard read in a child process: a row group that kills the process that unpacks it kills nothing else.

`python -m pipeline.quarantine.unpack_child` is this process. It reads a pickled `Reading` from stdin. It writes pickles to
stdout: `READY`, then one per image, and a last pickle: None at the end of the shard, or the error of the store.
"""

import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from pipeline.errors import BrokenShard, Incomplete, StorageError
from pipeline.quarantine.children import command, died_early, environment, signal_name
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.parquet import read_parquet
from pipeline.storage import Store, store_for

READY = "ready"
_NO_MEMORY = 70  # exit code of a child without memory
_TRIES = 2  # a kill from outside does not come twice
# The limits protect the node from a bomb. They are far above what a sound file takes, because perhaps the worker was killed
# from outside: a page has at most 2 GiB, and the packed page too; on top, an image takes 2 to 4.3 times its bytes (pyarrow 26).
PAGES_BYTES = 5 << 30
_TIMES_AN_IMAGE = 6
CPU_S = 600.0  # for one image, and the rows before it in its row group


@dataclass(frozen=True, slots=True)
class Reading:
    """What to read, and the limit of memory. given_up: see `read_parquet`."""

    shard: SourceObject
    start: Cursor
    options: ReadOptions
    memory_bytes: int
    given_up: str | None


@dataclass(frozen=True, slots=True)
class _Died:
    """The child ended before its last answer. again: worth another try, because somebody may have killed it."""

    reason: str
    again: bool = True


def read_apart(shard: SourceObject, start: Cursor, options: ReadOptions) -> Iterator[EncodedImage]:
    """The images as from `read_parquet`. If a row kills even the child, it fails with the rest of its row group.

    This always ends: each death at a row, but the first, gives up a row group or the shard. Raises the store's errors;
    `Incomplete` if the child never began to read, which says nothing about the shard; and `RuntimeError` with the child's
    traceback if maskfleet itself is at fault.
    """
    memory = PAGES_BYTES + _TIMES_AN_IMAGE * options.max_encoded_bytes
    cursor, given_up, tries, early = start, None, 0, 0
    while True:
        reading = Reading(shard, cursor, options, memory, given_up)
        died: _Died | Incomplete | None = None
        for found in _in_child(reading):
            if isinstance(found, _Died | Incomplete):
                died = found
                break
            cursor, tries, early = found.after, 0, 0
            if found.ends_part:
                given_up = None
            yield found
        if died is None:
            return
        if isinstance(died, Incomplete):
            early += 1
            if early == _TRIES:
                raise died
            continue
        tries += 1
        if died.again and tries < _TRIES:
            continue
        if given_up is not None:  # died although it unpacks nothing of this group: the footer kills it
            yield EncodedImage(
                shard=shard.uri, index=cursor.index, image_id=f"{shard.uri}#{cursor.index}", after=cursor,
                error=BrokenShard(died.reason), truncated=True,
            )  # fmt: skip
            return
        given_up, tries = died.reason, 0


def _in_child(reading: Reading) -> Iterator[EncodedImage | _Died | Incomplete]:
    pool = "system"  # Arrow's own pool takes a gigabyte at once, and may end the process if it gets none
    with tempfile.TemporaryFile() as said, _ended(
        subprocess.Popen(
            command("pipeline.quarantine.unpack_child"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
            env=environment(ARROW_DEFAULT_MEMORY_POOL=pool),
        )
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        is_ready = False
        try:
            child.stdin.write(pickle.dumps(reading))
            child.stdin.close()
            found = pickle.load(child.stdout)  # noqa: S301 - our own process wrote it
            is_ready = found == READY
            while is_ready and isinstance(found := pickle.load(child.stdout), EncodedImage):  # noqa: S301 - as above
                yield found
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):  # it died, perhaps in the middle of an image
            found = _cause(child.wait(), said, reading) if is_ready else died_early("a Parquet shard", child.wait(), _text(said))
        if isinstance(found, StorageError):
            raise found
        if isinstance(found, _Died | Incomplete):
            yield found


def _text(said: BinaryIO) -> str:
    said.seek(0)
    return said.read().decode(errors="replace")


def _cause(code: int, said: BinaryIO, reading: Reading) -> _Died:
    if code == _NO_MEMORY:
        return _Died(f"it takes more than {reading.memory_bytes >> 20} MiB of memory", again=False)
    if code >= 0:
        raise RuntimeError(_text(said)[-3000:])
    if code == -signal.SIGPROF:
        return _Died(f"it takes more than {CPU_S:g} seconds", again=False)
    return _Died(f"it ends the process that unpacks it: {signal_name(code)}")


@contextmanager
def _ended(child: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def _main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that libraries print is no answer
    reading: Reading = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own process wrote it
    pa.set_cpu_count(1)  # stacks of threads count as memory
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    max_bytes = reading.memory_bytes if hard == resource.RLIM_INFINITY else min(reading.memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, hard))
    last: StorageError | None = None
    try:
        store = store_for(reading.shard.fetch_uri)
        pickle.dump(READY, answers)
        answers.flush()
        for image in _limited(store, reading):
            pickle.dump(image, answers)  # large bytes are written without a copy
            answers.flush()
    except StorageError as error:
        last = error
    except MemoryError:
        os._exit(_NO_MEMORY)  # no last answer: half an image may be in the pipe
    pickle.dump(last, answers)
    answers.flush()


def _limited(store: Store, reading: Reading) -> Iterator[EncodedImage]:
    """The images, each within `CPU_S` of CPU time: beyond it the kernel ends this process. Waiting for storage takes none."""
    images = read_parquet(store, reading.shard, reading.start, reading.options, reading.given_up)
    while True:
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        image = next(images, None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if image is None:
            return
        yield image


if __name__ == "__main__":
    _main()
