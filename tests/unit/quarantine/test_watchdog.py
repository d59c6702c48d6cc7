"""The time limit ends a process also where C code keeps Python's lock."""

import signal
import subprocess
import sys
import time

import pytest

_BEGIN = """
import re, sys, threading, time
from pipeline.quarantine.watchdog import Watchdog
dog = Watchdog(1.0)
"""
_HANG = 're.match(r"(a+)+$", "a" * 64 + "b")'


def _run(body: str) -> tuple[int, float]:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", _BEGIN + body], capture_output=True, check=False, timeout=60)
    return done.returncode, time.monotonic() - started


@pytest.mark.parametrize("body", [f"with dog.limit(): {_HANG}", "with dog.limit(): time.sleep(60)"])
def test_what_takes_too_long_ends_the_process(body: str) -> None:
    code, seconds = _run(body)
    assert code == -signal.SIGALRM
    assert 1 <= seconds < 30


def test_a_hang_in_one_thread_is_seen_while_another_goes_on() -> None:
    body = """
def hang():
    with dog.limit():
        time.sleep(60)
threading.Thread(target=hang, daemon=True).start()
until = time.monotonic() + 20
while time.monotonic() < until:
    with dog.limit():
        time.sleep(0.01)
"""
    code, seconds = _run(body)
    assert code == -signal.SIGALRM
    assert seconds < 15


def test_whoever_leaves_first_does_not_end_the_limit_of_the_other() -> None:
    body = """
first, second = dog.limit(), dog.limit()
first.__enter__()
time.sleep(0.6)
second.__enter__()
first.__exit__(None, None, None)
time.sleep(0.6)  # more than a second since the first began, less since the second did
print("alive", flush=True)
time.sleep(20)
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", _BEGIN + body], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGALRM, b"alive\n")
    assert time.monotonic() - started < 15


def test_waiting_outside_the_limit_is_free() -> None:
    assert _run("with dog.limit(): pass\ntime.sleep(2)")[0] == 0


def test_many_images_within_the_limit_are_no_hang() -> None:
    assert _run("for _ in range(40):\n    with dog.limit():\n        time.sleep(0.05)")[0] == 0
