"""`ray job submit --working-dir . -- python -m jobs.segment …` on a local head with its job server."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.runs import read_rows, write_tars

BIN = Path(sys.executable).parent
TOKEN = secrets.token_hex(32)  # Ray's job server answers nobody without one


def _environment() -> dict[str, str]:
    """Of a user's shell: the token, this Python first in the path, and no Ray that the tests have started."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return env | ours | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the job server of a head of our own; ended by its own process group."""
    folder = Path("/tmp") / f"mf{os.getpid()}"  # paths of sockets must be short
    dashboard = _free_port()
    command = [
        str(BIN / "ray"), "start", "--head", "--block",
        "--node-ip-address=127.0.0.1", f"--port={_free_port()}", f"--dashboard-port={dashboard}",
        "--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={_free_port()}", f"--ray-client-server-port={_free_port()}",
        "--num-cpus=2", f"--temp-dir={folder}", "--object-store-memory=300000000", "--disable-usage-stats",
    ]  # fmt: skip
    log = (tmp_path_factory.mktemp("head") / "log").open("w")
    process = subprocess.Popen(command, env=_environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
                urllib.request.urlopen(request, timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < deadline, Path(log.name).read_text()
                time.sleep(0.3)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(4)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_submitted_job_labels_its_input(head: str, tmp_path: Path) -> None:
    source, out = write_tars(tmp_path / "in", 2, 6), tmp_path / "out"
    command = [
        str(BIN / "ray"), "job", "submit", "--address", head, "--working-dir", ".", "--",
        "python", "-m", "jobs.segment", "--input", str(source), "--output", str(out), "--weights", "bundled",
        "--short-side", "64",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout + done.stderr
    assert json.loads((out / "run.json").read_text())["counts"]["masks"] == len(read_rows(out).keys) == 12
