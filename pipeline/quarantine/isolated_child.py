"""One image in an isolated child, a process only for it: only an image that kills this process is poison.

`python -m pipeline.quarantine.isolated_child` is this process. It reads a pickled `Task` from stdin. It writes to stdout b"L"
when the network is loaded, b"D" when the image is decoded, and then the pickled result.
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

_START_S = 120.0  # time to load the network, on a busy machine
_TRIES = 2  # a kill from outside does not come twice
_WHAT = "one image"


@dataclass(frozen=True, slots=True)
class Task:
    """One image, and what labels it. timeout_s: time limit for decoding and labelling together. name: the file name."""

    network: Prepared
    options: LabelOptions
    timeout_s: float
    data: bytes
    name: str = ""


def label_in_child(task: Task) -> Labelled | BadImage:
    """The labels of one image, or why it has none: `ImageTimeout`, `KillsItsProcess`, or what decoding or labelling raised.

    Raises `Incomplete` if the isolated child never saw the image, so that nothing is known about it, and `RuntimeError` with the
    traceback of the child if maskfleet itself is at fault.
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
    except subprocess.TimeoutExpired as expired:  # not the image: its own timer runs once the network is loaded
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
    os.dup2(2, 1)  # text that libraries print is no answer
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
        except MemoryError:  # although the child does nothing else
            answer = pickle.dumps(ImageTooLarge("it does not fit into memory"))
    while answer:
        answer = answer[answers.write(answer) :]  # a pipe may take only some of the bytes
    os._exit(0)  # without destructors: if memory ran out, they may crash, which says nothing about the image


if __name__ == "__main__":
    _main()
