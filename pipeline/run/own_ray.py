"""A Ray that is started for one run alone, and Ray Data on it: without what serves a cluster or somebody who looks.

Ray starts an autoscaler, a server for its dashboard, and a process that sends workers' logs to the driver: 3 s of CPU before
the first image. Ray Data starts three actors: one for a dashboard's statistics, one that asks an autoscaler for nodes, and one
that knows on which node each worker is. Each of the six looks for something up to 100 times a second, and here none has
anything to do; as often Ray Data's iterator looks for receipts, of which one comes in seconds. There is no switch for them, so
names of `ray` are replaced while it starts, and while a pass runs. A Ray that has them elsewhere keeps its ways.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import ray

_NODE = "ray._private.node"
_STATISTICS = "ray.data._internal.stats"
_AUTOSCALER = "ray.data._internal.cluster_autoscaler.rate_based_cluster_autoscaler"
_POOL = "ray.data._internal.execution.operators.actor_pool_map_operator"
_STATE = "ray.data._internal.execution.streaming_executor_state"
_LOOK_S = 0.1
_own: set[str] = set()  # nodes of the Rays that this process started


def remember_as_own() -> None:
    """The Ray that this process has joined serves nobody else."""
    _own.add(_this_node())


@contextmanager
def lone_ray(*, logs: bool) -> Iterator[None]:
    """While `ray.init` starts a Ray for this process alone. `logs`: the driver shows what workers print."""
    with ExitStack() as stack:
        for enter in (_no_monitor, _no_dashboard, *(() if logs else (_no_log_monitor,))):
            _enter(stack, enter)
        yield


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """For a pass of Ray Data in this process. Changes nothing on a cluster that was there before."""
    with ExitStack() as stack:
        if _this_node() in _own:
            for enter in (_no_statistics, _no_autoscaler, _no_locations, _no_hurry):
                _enter(stack, enter)
        yield


def _enter(stack: ExitStack, replacements: Callable[[], list[Any]]) -> None:
    """All replacements of one kind, or none."""
    with ExitStack() as these:
        try:
            for each in replacements():
                these.enter_context(each)
        except (ImportError, AttributeError):  # another Ray
            return
        stack.push(these.pop_all())


def _no_monitor() -> list[Any]:
    return [patch.object(import_module(_NODE).Node, "start_monitor", _nothing)]


def _no_dashboard() -> list[Any]:
    def start_no_server(node: Any, **_: Any) -> None:
        node._webui_url = ""  # as where Ray has no dashboard

    return [patch.object(import_module(_NODE).Node, "start_api_server", start_no_server)]


def _no_log_monitor() -> list[Any]:
    return [patch.object(import_module(_NODE).Node, "start_log_monitor", _nothing)]


def _no_statistics() -> list[Any]:
    manager = import_module(_STATISTICS)._StatsManager
    return [
        patch.object(manager, "register_dataset_to_stats_actor", _nothing),
        patch.object(manager, "update_execution_metrics", _nothing),
        patch.object(manager, "update_iteration_metrics", _nothing),
        patch.object(manager, "gen_dataset_id_from_stats_actor", lambda: uuid.uuid4().hex),
    ]


def _no_autoscaler() -> list[Any]:
    return [patch.object(import_module(_AUTOSCALER), "DefaultAutoscalingCoordinator", _ThisMachine)]


def _no_locations() -> list[Any]:
    pool = import_module(_POOL)
    return [
        patch.object(pool, "get_or_create_actor_location_tracker", _Nobody),
        patch.object(pool, "get_actor_locations", lambda _actors: {}),  # "not known": a worker is where it was
    ]


def _no_hurry() -> list[Any]:
    return [patch.object(import_module(_STATE), "time", _Unhurried())]


def _this_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _nothing(*_: Any, **__: Any) -> None:
    pass


class _Nobody:
    """The actor that a worker tells where it is. Pickled: workers hold one, too."""

    @property
    def update_actor_location(self) -> "_Nobody":
        return self

    def remote(self, *_: Any) -> None:
        """Nobody wants to know."""


class _ThisMachine:
    """Ray Data's `AutoscalingCoordinator` where there are this machine's resources, and never more."""

    def __init__(self, **_: Any) -> None:
        self._resources = ray.cluster_resources()  # type: ignore[no-untyped-call]

    def request_resources(self, **_: Any) -> None:
        """There is nobody to ask."""

    def cancel_request(self) -> None:
        """There is none."""

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        """By node: all of them."""
        return {"here": self._resources}


class _Unhurried:
    """The module `time`, but for its `sleep`: that of an iterator between two looks for output."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """For a tenth of a second, if not longer."""
        time.sleep(max(seconds, _LOOK_S))
