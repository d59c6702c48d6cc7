"""Processes of their own for what may kill a process: how they are started, and those that never came to it."""

import os
import signal
import socket
import sys

from pipeline.errors import Incomplete


def command(module: str) -> list[str]:
    """What runs this module of ours in a process of its own."""
    return [sys.executable, "-W", "ignore", "-m", module]


def environment(**more: str) -> dict[str, str]:
    """In which it finds what this process finds."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | more


def signal_name(code: int) -> str:
    """Of the signal that ended a process with this (negative) exit code."""
    return signal.Signals(-code).name


def died_early(what: str, code: int, said: str) -> Incomplete:
    """It died before it saw `what` it was for, of which that says nothing. said: what it wrote to stderr."""
    last = (said.strip().splitlines() or [f"exit code {code}"])[-1][:200]
    return never_ready(what, f"ended by {signal_name(code)}" if code < 0 else last)


def never_ready(what: str, why: str) -> Incomplete:
    """The same for any other reason."""
    return Incomplete(
        f"no process could be had for {what} on {socket.gethostname()} ({why}): where memory is short, fewer --workers help"
    )
