"""Kills processes that a test's own process starts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil


@contextmanager
def killed_while_they_load(module: str) -> Iterator[set[int]]:
    """Kill each process that runs this module as soon as it is there, as the kernel does if memory is short -> their pids."""
    killed, over = set[int](), threading.Event()

    def kill() -> None:
        while not over.wait(0.005):
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):  # another one, which has just ended
                    if child.pid not in killed and module in child.cmdline():
                        child.kill()
                        killed.add(child.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()
