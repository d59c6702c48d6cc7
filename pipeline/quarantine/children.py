"""Child processes for work that may kill a process: how to start one, and errors for children that died before their work."""

import os
import signal
import socket
import sys

from pipeline.errors import Incomplete


def command(module: str) -> list[str]:
    """The command that runs a module of maskfleet as a child process."""
    return [sys.executable, "-W", "ignore", "-m", module]


def environment(**more: str) -> dict[str, str]:
    """The environment in which a child imports the same modules as this process, with `more` variables."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | more


def signal_name(code: int) -> str:
    """The name of the signal that ended a process with this (negative) exit code."""
    return signal.Signals(-code).name


def died_early(what: str, code: int, said: str) -> Incomplete:
    """The error if a child died before it saw `what` it was for: so nothing is known about `what`. said: its stderr."""
    last = (said.strip().splitlines() or [f"exit code {code}"])[-1][:200]
    return never_ready(what, f"ended by {signal_name(code)}" if code < 0 else last)


def never_ready(what: str, why: str) -> Incomplete:
    """The error if a child never saw `what` it was for, for any reason `why`."""
    return Incomplete(
        f"no process could be had for {what} on {socket.gethostname()} ({why}): where memory is short, fewer --workers help"
    )
