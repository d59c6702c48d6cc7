"""A Ray cluster of several raylets on this machine, whose processes can be killed: only those that it started."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from pipeline.worker.span_worker import TRACE

NODES = 2  # that work, one CPU each; the head has none
_STORE_BYTES = 80 << 20
_QUIET = {"RAY_enable_metrics_collection": "0", "RAY_USAGE_STATS_ENABLED": "0"}


class ChaosCluster:
    """`address` is for `RAY_ADDRESS`."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        args = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=args)
        self.address: str = self._cluster.address
        for _ in range(NODES):
            self.add_node()

    def add_node(self) -> None:
        """One more raylet, with one CPU."""
        self._cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)

    def kill_node(self, draw: random.Random) -> bool:
        """kill -9 a raylet; its object store and workers go with it. A new one takes its place."""
        nodes = sorted(self._cluster.worker_nodes, key=lambda node: str(node.unique_id))
        node = draw.choice(nodes)
        raylet = node.all_processes["raylet"][0].process
        died = raylet.poll() is None
        raylet.kill()
        self._cluster.remove_node(node, allow_graceful=False)
        self.add_node()
        return died

    def workers(self) -> list[psutil.Process]:
        """The processes that label, on all nodes."""
        found = []
        for node in self._cluster.worker_nodes:
            with suppress(psutil.Error):
                raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
                found += [child for child in raylet.children(recursive=True) if is_worker(child)]
        return sorted(found, key=lambda process: process.pid)

    def kill_worker(self, draw: random.Random) -> bool:
        """kill -9 one of them; False: there is none at this moment."""
        workers = self.workers()
        if not workers:
            return False
        try:
            os.kill(draw.choice(workers).pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """End every process of it."""
        self._cluster.shutdown()


def is_worker(process: psutil.Process) -> bool:
    """Does it label?"""
    with suppress(psutil.Error):
        return "".join(process.cmdline()).startswith("ray::MapWorker")  # of a zombie it is empty
    return False


@contextmanager
def chaos_cluster(trace: Path) -> Iterator[ChaosCluster]:
    """A cluster as long as the body runs; its workers write what they infer into `trace`."""
    mine = _QUIET | {TRACE: str(trace)}
    before = {name: os.environ.get(name) for name in mine}
    trace.touch()
    os.environ.update(mine)
    cluster = ChaosCluster()
    try:
        yield cluster
    finally:
        cluster.close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def wait_until(holds: Callable[[], object], limit_s: float) -> None:
    """Poll every 10 ms until it holds, or the time is over."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and not holds():
        time.sleep(0.01)
