"""Prepares labelling once, and caches the results: the converted network, and our compiled machine code.

Only a child process (`python -m pipeline.labels.prepare`) imports torch, so that neither the driver nor a worker with OpenVINO
has its 700 MB in memory.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict

from pipeline import errors
from pipeline.errors import MaskfleetError
from pipeline.labels.labeller import load_machine_code
from pipeline.model.engine import Prepared
from pipeline.model.prepare import NetworkRequest, cached_stem, convert, folder_of_networks, read_prepared


def prepare(request: NetworkRequest) -> Prepared:
    """The network, from the cache or prepared now. Raises `UsageError` or `NotReachable`, with advice."""
    return read_prepared(request, cached_stem(request) or _make_in_child(request))


def _make_in_child(request: NetworkRequest) -> str:
    folder_of_networks().mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pipeline.labels.prepare"],
        input=json.dumps(asdict(request)),  # not as an argument, because all users of the machine can see arguments
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    answers = [line for line in child.stdout.splitlines() if line.startswith('{"maskfleet"')]
    if not answers:
        raise RuntimeError(f"the network could not be prepared (exit code {child.returncode}):\n{child.stderr[-3000:]}")
    answer = json.loads(answers[-1])["maskfleet"]
    if "error" in answer:
        kind: type[MaskfleetError] = getattr(errors, answer["error"])
        raise kind(answer["message"])
    return str(answer["stem"])


def _main(request: str) -> None:
    try:
        answer = {"stem": convert(NetworkRequest(**json.loads(request)))}
        load_machine_code()  # fills numba's cache once, before each worker of this machine would
    except MaskfleetError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps({"maskfleet": answer}))


if __name__ == "__main__":
    _main(sys.stdin.read())
