"""A command on a real pseudo-terminal, and the screen that a person would see."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import pyte

ROOT = Path(__file__).parents[2]
_TAKE_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A child on a terminal of `columns` x `lines`. It is the child's controlling terminal, so Ctrl-C is a key, as for people.

    screen: what is visible now; its history holds what was scrolled out. raw: every byte that came.
    """

    def __init__(self, *arguments: object, columns: int = 80, lines: int = 40, env: Mapping[str, str] | None = None) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self.raw = bytearray()
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = os.openpty()
        size = f"import termios; termios.tcsetwinsize(0, ({lines}, {columns}))"
        subprocess.run([sys.executable, "-c", size], stdin=slave, check=True)
        environment = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        }
        environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"} | dict(env or {})
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, sys.executable, *map(str, arguments)],
            stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        """All text, scrolled out or not, without spaces at the ends of lines and empty lines at the end."""
        above = ["".join(row[column].data for column in range(self.screen.columns)) for row in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display]).rstrip("\n")

    def press(self, keys: str) -> None:
        """Type these keys."""
        os.write(self._master, keys.encode())

    def wait_for(self, seen: Callable[[str], object], timeout_s: float = 60) -> str:
        """Read until `seen(text)` is true -> the text. Raises `AssertionError` if the time is over, or the child has ended."""
        until = time.monotonic() + timeout_s
        while not seen(self.text):
            assert self._read(until - time.monotonic()), f"not seen:\n{self.text}"
        return self.text

    def end(self, timeout_s: float = 60) -> int:
        """Read to the end of the child -> its exit code."""
        until = time.monotonic() + timeout_s
        while self._read(until - time.monotonic()):
            pass
        return self.process.wait(max(1.0, until - time.monotonic()))

    def _read(self, timeout_s: float) -> bool:
        """Read what comes next; False if the child has ended, or the time is over."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, timeout_s))
        try:
            data = os.read(self._master, 1 << 16) if ready else b""
        except OSError:  # EIO: no process holds the other end any more
            data = b""
        self.raw += data
        self._stream.feed(data)
        return bool(data)
