"""One image in a throwaway process of its own: only what kills that process is poison.

`python -m pipeline.quarantine.isolated_child` is that process: a pickled `Task` on stdin; on stdout b"L" when the network is
loaded, b"D" when the image is decoded, and then what was found, pickled.
"""

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass

from pipeline.errors import BadImage, ImageTimeout, ImageTooLarge, Incomplete, KillsItsProcess
from pipeline.labels.labeller import Labelled, Labeller, LabelOptions, load_machine_code
from pipeline.model.engine import Prepared
from pipeline.model.loading import load_engine
from pipeline.quarantine.children import command, died_early, environment, never_ready, signal_name
from pipeline.quarantine.watchdog import Watchdog

_START_S = 120.0  # that it may take to load the network, on a busy machine
_TRIES = 2  # a kill from outside does not come twice
_WHAT = "one image"


@dataclass(frozen=True, slots=True)
class Task:
    """What is labelled, and with what; `timeout_s` for decoding and labelling."""

    network: Prepared
    options: LabelOptions
    timeout_s: float
    data: bytes
    name: str = ""


def label_in_child(task: Task) -> Labelled | BadImage:
    """The labels of one image, or why it has none: `ImageTimeout`, `KillsItsProcess`, or what decoding or labelling raised.

    Raises `Incomplete` where the other process never saw the image, of which nothing is known then, and `RuntimeError` with its
    traceback where maskfleet itself is at fault.
    """
    killed = early = 0
    while True:
        found = _in_child(task)
        if isinstance(found, Incomplete):
            early += 1
            if early == _TRIES:
                raise found
        elif isinstance(found, KillsItsProcess):
            killed += 1
            if killed == _TRIES:
                return found
        else:
            return found


def _in_child(task: Task) -> Labelled | BadImage | Incomplete:
    limit_s = _START_S + 2 * task.timeout_s
    try:
        child = subprocess.run(
            command("pipeline.quarantine.isolated_child"), input=pickle.dumps(task), capture_output=True, env=environment(),
            check=False, timeout=limit_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired as expired:  # that an image takes too long its own timer says, once the network is loaded
        raise never_ready(_WHAT, f"it gave no answer for {limit_s:.0f} s") from expired
    said = child.stderr.decode(errors="replace")
    if not child.stdout.startswith(b"L"):
        return died_early(_WHAT, child.returncode, said)
    if child.returncode == 0:
        found: Labelled | BadImage = pickle.loads(child.stdout.lstrip(b"LD"))  # noqa: S301 - our own process wrote it
        return found
    if child.returncode == -signal.SIGALRM:
        return _timeout(task, child.stdout)
    if child.returncode < 0:
        stage = "its network" if b"D" in child.stdout[:2] else "its decoder"
        return KillsItsProcess(f"{stage} ended the process: {signal_name(child.returncode)}")
    raise RuntimeError(said[-3000:])


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
            answer = pickle.dumps(found)
        except BadImage as error:
            answer = pickle.dumps(error)
        except MemoryError:  # with nothing else in it
            answer = pickle.dumps(ImageTooLarge("it does not fit into memory"))
    while answer:
        answer = answer[answers.write(answer) :]  # a pipe may take a part
    os._exit(0)  # what C++ does at its end says nothing of the image, and memory that ran out may have left it damaged


if __name__ == "__main__":
    _main()
