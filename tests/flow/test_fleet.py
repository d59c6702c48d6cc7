"""Clusters whose nodes differ: one on which no worker can start, one that joins late, one of which others have a CPU."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.verify.verify import verify
from tests.chaos.cluster import wait_until
from tests.conftest import ROOT, Finished, job_command
from tests.support.nodes import Nodes, nodes
from tests.support.runs import part_files, write_tars

FLAGS = ("--weights", "bundled", "--short-side", 64, "--part-images", 4)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Nodes]:
    with nodes(tmp_path) as started:
        yield started


def other_openvino(folder: Path) -> dict[str, str]:
    """The environment of a node whose OpenVINO says that it is of another release."""
    metadata = folder / "other" / "openvino-2026.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text("Metadata-Version: 2.1\nName: openvino\nVersion: 2026.1.0\n")
    return {"PYTHONPATH": f"{folder / 'other'}{os.pathsep}{ROOT}"}


def without_scratch(folder: Path) -> dict[str, str]:
    """The environment of a node that cannot write where workers note what they have in hand."""
    taken = folder / "tmp" / f"maskfleet-{os.getuid()}" / "begun"
    taken.parent.mkdir(parents=True)
    taken.write_text("a file where a folder should be")
    return {"TMPDIR": str(folder / "tmp")}


@pytest.mark.parametrize(
    ("unfit", "line"),
    [
        (other_openvino, "it has openvino 2026.1 and labels version"),
        pytest.param(without_scratch, "Error: [Errno ", marks=pytest.mark.slow),
    ],
)
def test_a_node_on_which_no_worker_can_start_takes_nothing(
    unfit: Callable[[Path], dict[str, str]], line: str, cluster: Nodes, job: Callable[..., Finished], tmp_path: Path
) -> None:
    node = cluster.add("unfit", env=unfit(tmp_path))
    cluster.add("fit")
    source, out = write_tars(tmp_path / "in", 20, 8), tmp_path / "out"
    done = job("segment", "--input", source, "--output", out, *FLAGS, env={"RAY_ADDRESS": cluster.address})
    assert done.code == 0, done.err
    assert verify(str(out)).state == "whole"
    assert (cluster.parts("unfit"), cluster.parts("fit")) == (0, 40)
    (said,) = [text for text in done.err.splitlines() if "no worker can start" in text]
    assert f"(node {node[:8]})" in said
    assert line in said
    assert "a round failed" not in done.err


def test_where_every_node_refuses_the_run_ends_at_once(cluster: Nodes, job: Callable[..., Finished], tmp_path: Path) -> None:
    for name in ("one", "two"):
        cluster.add(name, cpus=2, env=other_openvino(tmp_path))
    source, out = write_tars(tmp_path / "in", 20, 8), tmp_path / "out"
    began = time.monotonic()
    done = job("segment", "--input", source, "--output", out, *FLAGS, env={"RAY_ADDRESS": cluster.address})
    assert done.code == 5, done.err
    assert time.monotonic() - began < 180  # and not after 30 minutes without a part
    last = done.err.splitlines()[-1]
    assert "it has openvino 2026.1 and labels version" in last
    assert "other nodes that refuse, too: 1" in last
    assert part_files(out) == {}


_HOLD = """
import sys
import ray
@ray.remote(num_cpus=1)
class Other:
    def is_there(self):
        return True
ray.init(log_to_driver=False)
other = Other.options(label_selector={"ray.io/node-id": sys.argv[1]}).remote()
print(ray.get(other.is_there.remote()), flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_where_all_of_a_pass_refuse_the_next_one_waits_for_another_node(cluster: Nodes, tmp_path: Path) -> None:
    cluster.add("unfit", env=other_openvino(tmp_path))
    busy = cluster.add("busy")
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    source, out = write_tars(tmp_path / "in", 1, 8), tmp_path / "out"
    command = job_command("segment", "--input", source, "--output", out, *FLAGS, "--workers", 1)
    other = subprocess.Popen([sys.executable, "-c", _HOLD, busy], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"True\n"
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=said)
        try:
            wait_until(lambda: "a round failed" in (tmp_path / "said").read_text() or process.poll() is not None, 120)
            time.sleep(2)
            assert process.poll() is None
            other.communicate()  # it leaves
            process.wait(120)
        finally:
            for each in (process, other):
                each.kill()
                each.wait()
    assert process.returncode == 0, (tmp_path / "said").read_text()
    assert (cluster.parts("unfit"), cluster.parts("busy")) == (0, 2)
    assert verify(str(out)).state == "whole"


@pytest.mark.slow
def test_a_worker_that_dies_on_a_node_where_none_starts_any_more_holds_no_span(cluster: Nodes, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    cluster.add("fit")
    cluster.add("soon-unfit", env={"TMPDIR": str(temporary)})
    source, out = write_tars(tmp_path / "in", 40, 8), tmp_path / "out"
    command = job_command("segment", "--input", source, "--output", out, *FLAGS, "--short-side", 640)
    command += ["--idle-minutes", "1", "--image-timeout-s", "20"]
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"RAY_ADDRESS": cluster.address}, stderr=said)
        try:
            wait_until(lambda: cluster.parts("soon-unfit") or process.poll() is not None, 120)
            begun = temporary / f"maskfleet-{os.getuid()}" / "begun"
            begun.rename(temporary / "moved")
            begun.write_text("a file where a folder should be")
            (worker,) = cluster.workers("soon-unfit")
            worker.kill()
            process.wait(240)
        finally:
            process.kill()
            process.wait()
    text = (tmp_path / "said").read_text()
    assert process.returncode == 0, text
    assert "NotADirectoryError" in text
    assert verify(str(out)).state == "whole"


_COUNT = """
import sys
import ray
from pipeline.config import Workers
from pipeline.driver import ray_data as flow
from pipeline.output.reports import Events
@ray.remote(num_cpus=1)
class Driver:
    def is_there(self):
        return True
flow.start_ray(debug=False)
holder = Driver.remote()
assert ray.get(holder.is_there.remote())
for asked in (None, Workers(2, 8), Workers(3, 3)):
    fleet = flow.fleet(asked, Events())
    pool = fleet.pool(1000)
    print(fleet.there(), pool.min_size, pool.initial_size, pool.max_size)
"""


def test_a_cpu_that_somebody_has_is_not_counted(cluster: Nodes) -> None:
    cluster.add("node", cpus=4)
    done = subprocess.run(
        [sys.executable, "-c", _COUNT], cwd=ROOT, env=os.environ | {"RAY_ADDRESS": cluster.address}, capture_output=True,
        text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["3 1 3 1000", "3 2 3 8", "3 3 3 3"]


@pytest.mark.slow
def test_a_node_that_joins_in_the_middle_is_used(cluster: Nodes, tmp_path: Path) -> None:
    cluster.add("first")
    source, out = write_tars(tmp_path / "in", 100, 8), tmp_path / "out"
    command = job_command("segment", "--input", source, "--output", out, *FLAGS, "--short-side", 640)
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"RAY_ADDRESS": cluster.address}, stderr=said)
        try:
            wait_until(lambda: cluster.parts("first") or process.poll() is not None, 120)
            cluster.add("late", cpus=2)
            wait_until(lambda: cluster.parts("late") > 4 or process.poll() is not None, 120)
            process.wait(180)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, (tmp_path / "said").read_text()
    assert cluster.parts("late") > 4
    assert cluster.parts("first") + cluster.parts("late") == 200
    assert verify(str(out)).state == "whole"
