"""One seeded run through faults: kill at random moments, start the same command again, compare with an undisturbed run."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.verify.verify import verify
from pipeline.worker.span_worker import TRACE
from tests.chaos.cluster import ChaosCluster, wait_until
from tests.conftest import ROOT, job_command
from tests.support.runs import part_files, read_rows
from tests.support.tars import photos, tar_bytes

FAULTS = ("worker", "node", "driver")
FLAGS = ("--weights", "bundled", "--short-side", 128, "--part-images", 4, "--workers", 2, "--failure-budget", 1)
IMAGES = 64
_ATTEMPTS = 8
_ATTEMPT_S = 240.0


@dataclass(frozen=True, slots=True)
class Reference:
    """The input, and what an undisturbed run leaves of it."""

    source: Path
    parts: dict[str, bytes]
    digest: str
    keys: list[tuple[str, int]]


@dataclass(slots=True)
class Result:
    """faults: kind and parts that were committed when it struck. lost, twice: rows. digest: of the labels."""

    seed: int
    faults: list[tuple[str, int]] = field(default_factory=list)
    attempts: int = 0
    exit_codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    inferred: int = 0
    lost: int = 0
    twice: int = 0
    digest: str = ""
    same_parts: bool = False
    verified: str = ""

    @property
    def is_right(self) -> bool:
        """Nothing lost, nothing twice, the same labels in the same files; and somebody did die."""
        return bool(self.faults) and not self.lost and not self.twice and self.same_parts and self.verified == "whole"

    def to_json(self) -> str:
        """A line of the record."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Result":
        """The other way."""
        return cls(**json.loads(text))


def write_input(folder: Path) -> Path:
    """64 images in 5 tars and 7 files, three of them no images. Written once: names and times are part of what is compared."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    pictures = photos(IMAGES - 3)
    for number in range(5):
        some = pictures[11 * number : 11 * number + 11]
        members = [*some[:5], ("bad.jpg", b"no image"), *some[5:]] if number in (1, 3) else some
        (folder / f"{number}.tar").write_bytes(tar_bytes(members))
    (folder / "single").mkdir()
    for name, data in [*pictures[55:], ("bad.jpg", b"no image")]:
        (folder / "single" / name).write_bytes(data)
    return folder


def start(source: Path, out: Path, address: str) -> "subprocess.Popen[bytes]":
    """The command."""
    env = os.environ | {"RAY_ADDRESS": address}
    command = job_command("segment", "--input", source, "--output", out, *FLAGS)
    with open(out.with_suffix(".err"), "ab") as said:
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=said)


def reference_of(folder: Path, cluster: ChaosCluster) -> Reference:
    """Label once without a fault."""
    source, out = write_input(folder / "in"), folder / "undisturbed"
    shutil.rmtree(out, ignore_errors=True)
    code = start(source, out, cluster.address).wait(_ATTEMPT_S)
    assert code == 0, out.with_suffix(".err").read_text()
    assert verify(str(out), deep=True).state == "whole"
    keys = read_rows(out).keys
    assert len(keys) == len(set(keys)) == IMAGES
    return Reference(source, part_files(out), json.loads((out / "run.json").read_text())["labels_digest"], keys)


def run_seed(seed: int, folder: Path, cluster: ChaosCluster, reference: Reference) -> Result:
    """Faults of this seed until they are spent, the same command until it ends with 0; then the oracle."""
    draw, result = random.Random(seed), Result(seed)
    out, traced = folder / f"seed-{seed}", Path(os.environ[TRACE]).stat().st_size
    shutil.rmtree(out, ignore_errors=True)  # what a chaos that was stopped had left of it
    total = len(reference.parts)
    moments = [draw.randrange(total // 2), *(draw.randrange(total) for _ in range(draw.randint(0, 2)))]  # one before it is late
    pending = sorted((moment, draw.choice(FAULTS), draw.uniform(0, 0.4)) for moment in moments)
    began = time.monotonic()
    while result.attempts < _ATTEMPTS:
        result.attempts += 1
        process = start(reference.source, out, cluster.address)
        try:
            while pending and _strike(pending[0], process, out, cluster, draw, result):
                pending.pop(0)
            process.wait(_ATTEMPT_S)
        finally:
            process.kill()
            process.wait()
        result.exit_codes.append(process.returncode)
        if process.returncode == 0:
            break
    result.seconds = round(time.monotonic() - began, 1)
    _judge(result, out, traced, reference)
    if result.is_right:
        for left in (out, out.with_suffix(".err")):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return result


def _strike(
    fault: tuple[int, str, float], process: "subprocess.Popen[bytes]", out: Path, cluster: ChaosCluster, draw: random.Random,
    result: Result,
) -> bool:  # fmt: skip
    """Wait for its moment and do it; False: the attempt ended before, so that it waits for the next attempt, if there is one."""
    parts, kind, delay = fault

    def there() -> int:
        return len(list((out / "masks").glob("*.parquet"))) if out.exists() else 0

    wait_until(lambda: process.poll() is not None or (there() >= parts and _is_ready(kind, cluster)), _ATTEMPT_S)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    committed = there()
    do: dict[str, Callable[[], bool]] = {
        "worker": lambda: cluster.kill_worker(draw), "node": lambda: cluster.kill_node(draw), "driver": lambda: _kill(process),
    }  # fmt: skip
    if do[kind]():
        result.faults.append((kind, committed))
    return True


def _is_ready(kind: str, cluster: ChaosCluster) -> bool:
    return kind != "worker" or bool(cluster.workers())


def _kill(process: "subprocess.Popen[bytes]") -> bool:
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def _judge(result: Result, out: Path, traced: int, reference: Reference) -> None:
    rows = read_rows(out).keys
    result.lost = len(set(reference.keys) - set(rows))
    result.twice = len(rows) - len(set(rows))
    result.same_parts = part_files(out) == reference.parts
    result.verified = verify(str(out), deep=True).state
    run: dict[str, Any] = json.loads((out / "run.json").read_text())
    result.digest = run["labels_digest"]
    result.same_parts = result.same_parts and result.digest == reference.digest
    lines = Path(os.environ[TRACE]).read_bytes()[traced:].splitlines()
    result.inferred = sum(json.loads(line)["inferred"] for line in lines)
