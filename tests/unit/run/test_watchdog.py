"""The time limit ends a process also where C code keeps Python's lock."""

import subprocess
import sys
import time

import pytest

_BEGIN = """
import re, sys, threading, time
from pipeline.run.watchdog import Watchdog
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
    assert code == 1
    assert 1 <= seconds < 30


def test_a_hang_in_one_thread_is_seen_while_another_goes_on() -> None:
    body = """
def hang():
    with dog.limit():
        time.sleep(60)
threading.Thread(target=hang, daemon=True).start()
for _ in range(5):
    with dog.limit():
        time.sleep(0.01)
time.sleep(10)
"""
    assert _run(body)[0] == 1


def test_waiting_outside_the_limit_is_free() -> None:
    assert _run("with dog.limit(): pass\ntime.sleep(2)")[0] == 0


def test_many_images_within_the_limit_are_no_hang() -> None:
    assert _run("for _ in range(40):\n    with dog.limit():\n        time.sleep(0.05)")[0] == 0
