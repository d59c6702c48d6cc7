"""Keep a worker's memory flat: tell glibc not to hoard."""

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of malloc.h
ARENAS = 1
MMAP_BYTES = 32 << 20  # the largest that glibc takes; at 1 MiB every image cost 1,000 page faults, 3 % of the time


def bound_malloc() -> None:
    """One arena for all threads, and the largest blocks given back as soon as they are free.

    By default every read-ahead thread brings an arena of its own and the threshold grows with what is freed: a
    worker grew from 320 to 440 MB of USS over 3,500 photographs. No effect where libc is not glibc.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, MMAP_BYTES)
