"""An image in a process of its own: what kills that process from outside is not the image."""

import threading
import time
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest

from pipeline.errors import ImageTimeout, Incomplete, KillsItsProcess
from pipeline.labels.labeller import Labelled, LabelOptions
from pipeline.labels.prepare import prepare
from pipeline.model.prepare import NetworkRequest
from pipeline.quarantine import isolated_child as alone
from pipeline.quarantine.isolated_child import Task, label_in_child
from tests.conftest import ROOT
from tests.support.children import killed_while_they_load
from tests.support.images import jpeg
from tests.support.poison.sitecustomize import CRASHES, HANGS


@pytest.fixture(scope="module")
def task() -> Task:
    network = prepare(NetworkRequest(model="lraspp_mobilenet_v3_large", weights="bundled", engine="openvino", short_side=32))
    return Task(network, LabelOptions(classes=network.classes, preset=network.preset), 60.0, jpeg())


def test_who_is_killed_before_it_has_seen_the_image_says_nothing_of_it(task: Task) -> None:
    with (
        killed_while_they_load("pipeline.quarantine.isolated_child") as killed,
        pytest.raises(Incomplete, match=r"no process .* for one image .*SIGKILL.*fewer --workers"),
    ):
        label_in_child(task)
    assert len(killed) == 2


def test_a_network_that_is_not_loaded_in_time_says_nothing_of_the_image(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "_START_S", 0.0)
    with pytest.raises(Incomplete, match=r"no process .* for one image .*it gave no answer for 0 s"):
        label_in_child(replace(task, timeout_s=0.05))


def test_a_network_that_cannot_be_loaded_says_nothing_of_the_image(task: Task) -> None:
    """Its worker has loaded the same one: what is short is memory."""
    with pytest.raises(Incomplete, match=r"no process .* for one image .*Unable to read the model"):
        label_in_child(replace(task, network=replace(task.network, graph=b"<net>")))


def test_what_kills_or_hangs_a_process_that_has_loaded_is_the_image(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKFLEET_TEST_POISON", "1")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "support" / "poison"))
    killed = label_in_child(replace(task, data=jpeg() + CRASHES))
    assert isinstance(killed, KillsItsProcess)
    assert str(killed) == "its decoder ended the process: SIGSEGV"
    hangs = label_in_child(replace(task, data=jpeg() + HANGS, timeout_s=1.0))
    assert isinstance(hangs, ImageTimeout)
    assert str(hangs) == "decoding took longer than --image-timeout-s 1"


def test_a_kill_from_outside_is_no_poison(task: Task) -> None:
    killed: list[int] = []

    def kill_the_first() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):  # another child, which has just ended
                    if "pipeline.quarantine.isolated_child" in child.cmdline():
                        child.kill()
                        killed.append(child.pid)
            time.sleep(0.01)

    thread = threading.Thread(target=kill_the_first)
    thread.start()
    found = label_in_child(task)
    thread.join()
    assert killed
    assert isinstance(found, Labelled)
