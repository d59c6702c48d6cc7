"""What the job asks of Ray, seen at Ray: a quiet session."""

import ctypes
from pathlib import Path

import pytest
import ray

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
