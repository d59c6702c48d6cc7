"""An image in a process of its own: what kills that process from outside is not the image."""

import threading
import time

import psutil

from pipeline.labels.labeller import Labelled, LabelOptions
from pipeline.model.prepare import NetworkRequest, prepare
from pipeline.run.alone import Task, label_alone
from tests.support.images import jpeg


def test_a_kill_from_outside_is_no_poison() -> None:
    network = prepare(NetworkRequest(model="lraspp_mobilenet_v3_large", weights="bundled", engine="openvino", short_side=32))
    task = Task(network, LabelOptions(classes=network.classes, preset=network.preset), 60.0, jpeg())
    killed: list[int] = []

    def kill_the_first() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for child in psutil.Process().children():
                if "pipeline.run.alone" in child.cmdline():
                    child.kill()
                    killed.append(child.pid)
            time.sleep(0.01)

    thread = threading.Thread(target=kill_the_first)
    thread.start()
    found = label_alone(task)
    thread.join()
    assert killed
    assert isinstance(found, Labelled)
