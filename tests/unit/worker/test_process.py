import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes, sys
from pipeline.worker.process import exit_without_destructors
libc = ctypes.CDLL(None)
libc.__cxa_atexit(libc.pause, None, None)  # waits for ever, as Ray's own destructors do now and then
{call}
sys.stdout.write("said")
sys.stderr.write("warned")
"""


def _run(call: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(call=call)], capture_output=True, text=True, timeout=5, check=False
    )


def test_a_destructor_that_hangs_keeps_no_worker() -> None:
    done = _run("exit_without_destructors(); exit_without_destructors()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "said", "warned")
    with pytest.raises(subprocess.TimeoutExpired):  # else it would
        _run("")
