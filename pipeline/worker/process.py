"""End a worker's process without the destructors of C++."""

import atexit
import functools
import os
import sys


@functools.cache
def exit_without_destructors() -> None:
    """Make this process end right after Python's own exit handlers: no destructor of C or C++ runs.

    Workers call this: they have committed and reported all work before they exit. Ray's destructors (2.60,
    `CoreWorkerProcess::HandleAtExit`) sometimes wait for ever for a lock that they have destroyed. Such a process outlives its
    Ray, and keeps all its memory.
    """
    atexit.register(_leave)


def _leave() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # flush fails if the reader of stdout or stderr is gone
        os._exit(0)
