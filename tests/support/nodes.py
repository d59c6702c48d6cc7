"""A Ray cluster of several raylets on this machine, each with its own environment, like nodes with different images."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from pipeline.worker.span_worker import TRACE
from tests.chaos.cluster import is_worker

_STORE_BYTES = 80 << 20
_QUIET = {"RAY_enable_metrics_collection": "0", "RAY_USAGE_STATS_ENABLED": "0"}


class Nodes:
    """The nodes of the cluster. `address` is for `RAY_ADDRESS`. The head has no CPU. Each node has its own trace file."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._folder = folder
        self._nodes: dict[str, Any] = {}
        with environment(_QUIET):
            args = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
            self._cluster: Any = Cluster(initialize_head=True, head_node_args=args)
        self.address: str = self._cluster.address

    def add(self, name: str, *, cpus: int = 1, env: Mapping[str, str] | None = None) -> str:
        """Start one more raylet -> its node id."""
        with environment(_QUIET | {TRACE: str(self._folder / name)} | dict(env or {})):
            self._nodes[name] = self._cluster.add_node(num_cpus=cpus, object_store_memory=_STORE_BYTES)
        return str(self._nodes[name].node_id)

    def parts(self, name: str) -> int:
        """How many parts the workers of this node have labelled so far."""
        trace = self._folder / name
        return trace.read_bytes().count(b"\n") if trace.exists() else 0

    def workers(self, name: str) -> list[psutil.Process]:
        """The processes that label on this node."""
        raylet = psutil.Process(self._nodes[name].all_processes["raylet"][0].process.pid)
        return [child for child in raylet.children(recursive=True) if is_worker(child)]

    def close(self) -> None:
        """End every process of the cluster."""
        self._cluster.shutdown()


@contextmanager
def nodes(folder: Path) -> Iterator[Nodes]:
    """A cluster while the body runs."""
    cluster = Nodes(folder)
    try:
        yield cluster
    finally:
        cluster.close()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set these variables while the body runs. Processes that the body starts inherit them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
