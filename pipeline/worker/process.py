"""End a worker's process without the destructors of C++."""

import atexit
import functools
import os
import sys


@functools.cache
def exit_without_destructors() -> None:
    """From now on this process is over when Python is: nothing that C or C++ registered for its exit runs.

    For a worker, which has committed and told all by then. Ray's destructors (2.60, `CoreWorkerProcess::HandleAtExit`) at
    times wait for ever for a lock that they have destroyed, and the process then outlives its Ray, with all its memory.
    """
    atexit.register(_leave)


def _leave() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # nobody may be there to read it
        os._exit(0)
