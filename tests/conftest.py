"""What all tests share: one Ray a session, one S3 server a session, and runs of the real job."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.s3_server import S3Server

os.environ["RAY_ADDRESS"] = "local"  # never join a cluster that happens to run on this machine
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

# What is committed is flushed to disk, which takes milliseconds each time, thousands of times: folders of tests lie in memory.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Photographs, weights and schemas that are never committed."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator["S3Server"]:
    """A real S3 server on loopback; its AWS variables are set for this process while it runs."""
    from tests.support.s3_server import S3Server, S3ServerMissing

    try:
        server = S3Server(tmp_path_factory.mktemp("s3"))
        server.start()
    except S3ServerMissing as missing:
        pytest.skip(str(missing))
    before = {name: os.environ.get(name) for name in server.env}
    os.environ.update(server.env)
    yield server
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.kill()


@pytest.fixture(scope="session")
def local_ray(s3: "S3Server") -> Iterator[None]:  # its workers must know the server's variables
    """Ray in this process, two cores, as a job on a laptop has it."""
    import ray

    from pipeline.driver import ray_data as flow

    flow.start_ray(debug=False)
    yield
    ray.shutdown()


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that ended: exit code and what it printed."""

    code: int
    out: str
    err: str


def job_command(name: str, *arguments: object) -> list[str]:
    """`python -m jobs.NAME ARGUMENTS…`."""
    return [sys.executable, "-m", f"jobs.{name}", *map(str, arguments)]


@pytest.fixture(scope="session")
def job() -> Callable[..., Finished]:
    """Run a job as a user does, in a process of its own."""

    def run(name: str, *arguments: object, env: dict[str, str] | None = None, timeout_s: float = 240) -> Finished:
        done = subprocess.run(
            job_command(name, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=timeout_s,
            env=os.environ | (env or {}), check=False,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    return run
