"""One image in a throwaway process of its own: only what kills that process is poison.

`python -m pipeline.run.alone` is that process: a pickled `Task` on stdin; on stdout b"L" when the network is loaded, b"D" when
the image is decoded, and then what was found, pickled.
"""

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass

from pipeline.errors import BadImage, ImageTimeout, ImageTooLarge, KillsItsProcess
from pipeline.labels.labeller import Labelled, Labeller, LabelOptions, load_machine_code
from pipeline.model.engine import Prepared
from pipeline.model.loading import load_engine
from pipeline.run.watchdog import Watchdog

_START_S = 120.0  # that it may take to load the network, on a busy machine
_TRIES = 2  # a kill from outside does not come twice


@dataclass(frozen=True, slots=True)
class Task:
    """What is labelled, and with what; `timeout_s` for decoding and labelling."""

    network: Prepared
    options: LabelOptions
    timeout_s: float
    data: bytes
    name: str = ""


def label_alone(task: Task) -> Labelled | BadImage:
    """The labels of one image, or why it has none: `ImageTimeout`, `KillsItsProcess`, or what decoding or labelling raised.

    Raises `RuntimeError` with the other process's traceback where maskfleet itself is at fault.
    """
    found: Labelled | BadImage = KillsItsProcess("")
    for _ in range(_TRIES):
        found = _in_child(task)
        if not isinstance(found, KillsItsProcess):
            break
    return found


def _in_child(task: Task) -> Labelled | BadImage:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-W", "ignore", "-m", "pipeline.run.alone"]
    try:
        child = subprocess.run(
            command, input=pickle.dumps(task), capture_output=True, env=environment, check=False,
            timeout=_START_S + 2 * task.timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired as expired:
        return _timeout(task, expired.stdout or b"")
    if child.returncode == 0:
        found: Labelled | BadImage = pickle.loads(child.stdout.lstrip(b"LD"))  # noqa: S301 - our own process wrote it
        return found
    if child.returncode == -signal.SIGALRM:
        return _timeout(task, child.stdout)
    if child.returncode < 0:
        stage = "its network" if b"D" in child.stdout[:2] else "its decoder"
        return KillsItsProcess(f"{stage} ended the process: {signal.Signals(-child.returncode).name}")
    raise RuntimeError(child.stderr.decode(errors="replace")[-3000:])


def _timeout(task: Task, said: bytes) -> ImageTimeout:
    stage = "labelling" if b"D" in said[:2] else "decoding"
    return ImageTimeout(f"{stage} took longer than --image-timeout-s {task.timeout_s:g}")


def _main() -> None:
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no answer
    task: Task = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own process wrote it
    labeller = Labeller(load_engine(task.network), task.options)
    load_machine_code()
    answers.write(b"L")
    with Watchdog(task.timeout_s).limit():
        try:
            resized = labeller.read(task.data, task.name)
            answers.write(b"D")
            found: Labelled | BadImage = labeller.label(resized)
        except BadImage as error:
            found = error
        except MemoryError:  # with nothing else in it
            found = ImageTooLarge("it does not fit into memory")
    answers.write(pickle.dumps(found))


if __name__ == "__main__":
    _main()
