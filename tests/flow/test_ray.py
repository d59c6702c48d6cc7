"""What the job asks of Ray, seen at Ray: a quiet session."""

import ctypes
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray.exceptions import RpcError

from pipeline.driver.fleet import Fleet, faults_of_ray
from tests.conftest import ROOT, Finished
from tests.support.runs import segment, write_tars

pytestmark = pytest.mark.usefixtures("local_ray")


def test_threads_of_workers_share_one_arena(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0)
    def arenas(path: str) -> None:
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        stream = ctypes.c_void_p(libc.fopen(path.encode(), b"w"))
        libc.malloc_info(0, stream)
        libc.fclose(stream)

    ray.get(arenas.remote(str(tmp_path / "malloc.xml")))
    assert (tmp_path / "malloc.xml").read_text().count("<heap nr=") == 1


_STOPPED_AT_THE_START = """
import os, signal, threading, time
from pipeline.driver import ray_data as flow
from pipeline.stopped import Stopped, stop_on_signals

stop_on_signals()
ours = signal.getsignal(signal.SIGTERM)

def stop():
    while signal.getsignal(signal.SIGTERM) is ours:  # until Ray has put its own in its place
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=stop, daemon=True).start()
try:
    flow.start_ray(debug=False)
except Stopped as stopped:
    print("stopped", stopped.exit_code)
"""


def test_a_signal_while_ray_starts_stops_the_run() -> None:
    """Ray's own handler leaves with 15, of which no report tells and which no scheduler runs again."""
    done = subprocess.run([sys.executable, "-c", _STOPPED_AT_THE_START], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("stopped 143\n", 0), done.stderr


def test_a_cluster_that_is_not_there_is_one_line(job: Callable[..., Finished], tmp_path: Path) -> None:
    source = write_tars(tmp_path / "in", 1, 2)
    with socket.create_server(("127.0.0.1", 0)) as taken:  # and free again
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    done = job(
        "segment", "--input", source, "--output", tmp_path / "out", "--short-side", 64, "--json", tmp_path / "end.json",
        env={"RAY_ADDRESS": nobody},
    )  # fmt: skip
    assert done.code == 4, done.err
    assert done.err.strip().splitlines()[-1].startswith(f"maskfleet: the Ray of RAY_ADDRESS={nobody}: ")
    assert "Traceback" not in done.err
    assert json.loads((tmp_path / "end.json").read_text())["exit_code"] == 4


def test_a_control_plane_that_is_gone_for_a_moment_costs_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_self: Fleet) -> int:
        monkeypatch.undo()
        raise RpcError("UNAVAILABLE", rpc_code=14)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(Fleet, "may_be", faults_of_ray()(gone))
    outcome = segment(write_tars(tmp_path / "in", 1, 4), tmp_path / "out")
    assert outcome.error is None
    assert outcome.run["counts"]["images"] == 4
