"""A Parquet shard read in a process of its own: a row group that ends whoever unpacks it ends nothing else.

`python -m pipeline.run.apart` is that process: a pickled `Reading` on stdin; on stdout one pickle for each image, and a last one:
None at the end of the shard, or the error of the store.
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

from pipeline.errors import BrokenShard, StorageError
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, Shard
from pipeline.shards.parquet import read_parquet
from pipeline.storage import store_for

_NO_MEMORY = 70  # its exit code
_TRIES = 2  # a kill from outside does not come twice
# The limits keep a bomb from the node. They are far above what a sound file takes, as the worker may have been killed from
# outside: a page has at most 2 GiB, and as many while it is packed; an image takes 2 to 4.3 times its bytes on top (pyarrow 26).
PAGES_BYTES = 5 << 30
_TIMES_AN_IMAGE = 6
CPU_S = 600.0  # for one image, and the rows before it in its row group


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read, and within how much memory. given_up: see `read_parquet`."""

    shard: Shard
    start: Cursor
    options: ReadOptions
    memory_bytes: int
    given_up: str | None


@dataclass(frozen=True, slots=True)
class _Died:
    """The process ended before it had said all. `again`: it may be that somebody killed it."""

    reason: str
    again: bool = True


def read_apart(shard: Shard, start: Cursor, options: ReadOptions) -> Iterator[EncodedImage]:
    """What `read_parquet` yields. What cannot be unpacked even there fails, up to the end of its row group.

    Ends: each death but the first at a row gives up a row group, or the shard. Raises the store's errors, and `RuntimeError`
    with the other process's traceback where maskfleet itself is at fault.
    """
    memory = PAGES_BYTES + _TIMES_AN_IMAGE * options.max_encoded_bytes
    cursor, given_up, tries = start, None, 0
    while True:
        reading = Reading(shard, cursor, options, memory, given_up)
        died: _Died | None = None
        for found in _in_child(reading):
            if isinstance(found, _Died):
                died = found
                break
            cursor, tries = found.after, 0
            if found.ends_part:
                given_up = None
            yield found
        if died is None:
            return
        tries += 1
        if died.again and tries < _TRIES:
            continue
        if given_up is not None:  # without unpacking anything: its footer does it
            yield EncodedImage(
                shard=shard.uri, index=cursor.index, image_id=f"{shard.uri}#{cursor.index}", after=cursor,
                error=BrokenShard(died.reason), breaks=True,
            )  # fmt: skip
            return
        given_up, tries = died.reason, 0


def _in_child(reading: Reading) -> Iterator[EncodedImage | _Died]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # Arrow's own takes a gigabyte at once, and may end the process where it gets none
    }
    command = [sys.executable, "-W", "ignore", "-m", "pipeline.run.apart"]
    with tempfile.TemporaryFile() as said, _ended(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment)
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(pickle.dumps(reading))
            child.stdin.close()
            while isinstance(found := pickle.load(child.stdout), EncodedImage):  # noqa: S301 - our own process wrote it
                yield found
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):  # it died, in the middle of an image perhaps
            found = _cause(child.wait(), said, reading)
        if isinstance(found, StorageError):
            raise found
        if isinstance(found, _Died):
            yield found


def _cause(code: int, said: BinaryIO, reading: Reading) -> _Died:
    if code == _NO_MEMORY:
        return _Died(f"it takes more than {reading.memory_bytes >> 20} MiB of memory", again=False)
    if code >= 0:
        said.seek(0)
        raise RuntimeError(said.read().decode(errors="replace")[-3000:])
    if code == -signal.SIGPROF:
        return _Died(f"it takes more than {CPU_S:g} seconds", again=False)
    return _Died(f"it ends the process that unpacks it: {signal.Signals(-code).name}")


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
    os.dup2(2, 1)  # what libraries print is no answer
    reading: Reading = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own process wrote it
    pa.set_cpu_count(1)  # the stacks of threads count
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = reading.memory_bytes if hard == resource.RLIM_INFINITY else min(reading.memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    last: StorageError | None = None
    try:
        for image in _limited(reading):
            pickle.dump(image, answers)  # large bytes go there as they are
            answers.flush()
    except StorageError as error:
        last = error
    except MemoryError:
        os._exit(_NO_MEMORY)  # half an image may be on its way
    pickle.dump(last, answers)
    answers.flush()


def _limited(reading: Reading) -> Iterator[EncodedImage]:
    """Beyond the limit of CPU time the kernel ends this process; waiting for storage takes none."""
    store = store_for(reading.shard.fetch_uri)
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
