"""`segment --dry-run` beside the run itself, for five unlike inputs: seconds, objects, bytes, requests.

`python -m jobs.benchmarks.forecast [--images 1500]`: both are processes of their own, timed from start to exit, back to
back, so that a machine that is busy is so for both.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from jobs.benchmarks.machine import machine
from jobs.benchmarks.metered_s3 import Metered, metered_s3
from jobs.benchmarks.photographs import photographs
from jobs.benchmarks.report import OUT, Grid, Report, publish
from jobs.benchmarks.unlike_inputs import Input, write_inputs
from jobs.command import run_job
from pipeline.errors import Incomplete
from pipeline.storage import join, store_for

GOAL = 0.1
_BUCKET = "forecast"
_COMPARED = ("seconds", "objects", "bytes", "requests")


@click.command()
@click.option("--photos", metavar="FOLDER", multiple=True, help="JPEGs to repeat [default: the bundled photographs].")
@click.option("--images", default=1500, show_default=True, help="Small photographs an input.")
@click.option("--short-side", default=288, show_default=True)
@click.option("--workers", type=int, default=None, help="[default: the cores]")
@click.option("--only", metavar="TEXT", multiple=True, help="Inputs whose name holds TEXT [default: all].")
@click.option("--rounds", default=1, show_default=True)
@click.option("--no-s3", is_flag=True, help="Leave the input on S3 out.")
@click.option("--out", default=OUT, show_default=True, metavar="FOLDER")
def main(
    photos: tuple[str, ...], images: int, short_side: int, workers: int | None, only: tuple[str, ...], rounds: int, no_s3: bool,
    out: str,
) -> None:  # fmt: skip
    """Forecast and run five inputs, and compare."""
    flags = ["--weights", "bundled", "--short-side", str(short_side), *(["--workers", str(workers)] if workers else [])]
    os.environ["RAY_ADDRESS"] = "local"  # this machine is what is measured
    run_job(lambda: _forecast(photos, images, flags, only, rounds, out, s3=not no_s3))


def _forecast(
    photos: tuple[str, ...], images: int, flags: list[str], only: tuple[str, ...], rounds: int, out: str, *, s3: bool
) -> int:
    data, here, found = photographs(photos), machine(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as opened:
        server = opened.enter_context(metered_s3(Path(scratch) / "server", _BUCKET)) if s3 else None
        os.environ.update(server.environment if server else {})
        for each in _wanted(write_inputs(f"{scratch}/in", f"s3://{_BUCKET}/in" if s3 else None, data, images), only):
            place = f"s3://{_BUCKET}/out" if each.uri.startswith("s3://") else f"{scratch}/out"
            for number in range(rounds):
                target = join(place, f"{len(found)}-{number}")
                found.append(_compare(each, target, flags, server if each.uri.startswith("s3://") else None, scratch))
                click.echo(_told(found[-1]), err=True)
    publish(_report(found, images, flags, here), out)
    return 0


def _wanted(inputs: Iterator[Input], only: tuple[str, ...]) -> Iterator[Input]:
    return (each for each in inputs if not only or any(text in each.name for text in only))


def _compare(each: Input, target: str, flags: list[str], server: Metered | None, scratch: str) -> dict[str, Any]:
    """One dry run, one run."""
    command = [sys.executable, "-m", "jobs.segment", "--input", each.uri, "--output", target, "--failure-budget", "1", *flags]
    said, dry_run_s, _ = _run([*command, "--dry-run"], f"{scratch}/forecast.json", None)
    if any(True for _ in store_for(target).walk(target + "/")):
        raise Incomplete(f"the dry run left something in {target}")
    ran, seconds, requests = _run(command, f"{scratch}/run.json", server)
    left = [info.size or 0 for info in store_for(target).walk(target + "/")]
    real = {"seconds": seconds, "objects": len(left), "bytes": sum(left)}
    forecast = {"seconds": said["seconds"], "objects": said["output_objects"], "bytes": said["output_bytes"]}
    if server is not None:
        real["requests"], forecast["requests"] = sum(requests.values()), sum(said["requests"].values())
    return {
        "input": each.name, "images": each.images, "dry_run_s": dry_run_s, "forecast": forecast, "real": real,
        "difference": {name: forecast[name] / real[name] - 1 for name in real},
        "forecast_said": said, "requests_by_kind": dict(requests), "run": ran["attempts"][-1], "counts": ran["counts"],
    }  # fmt: skip


def _run(command: list[str], json_file: str, server: Metered | None) -> tuple[dict[str, Any], float, Counter[str]]:
    """-> what it said, the seconds from its start to its exit, and what the server was asked."""
    before = server.requests() if server else Counter[str]()
    started = time.perf_counter()
    process = subprocess.run([*command, "--json", json_file], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise Incomplete(f"`{' '.join(command[1:])}` exited with {process.returncode}:\n{process.stderr[-2000:]}")
    asked = server.requests() - before if server else before
    said: dict[str, Any] = json.loads(Path(json_file).read_text())
    return said, seconds, asked


def _told(found: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {found['forecast'][name]:,.0f} of {found['real'][name]:,.0f} ({share:+.1%})"
                       for name, share in found["difference"].items())  # fmt: skip
    return f"{found['input']}: {shares}; dry run {found['dry_run_s']:.0f} s"


def _report(found: list[dict[str, Any]], images: int, flags: list[str], here: dict[str, Any]) -> Report:
    rows = [
        [
            each["input"], f"{each['images']:,}", f"{each['dry_run_s']:.0f} s",
            *(f"{_shown(name, each['forecast'][name])} / {_shown(name, each['real'][name])} ({each['difference'][name]:+.1%})"
              if name in each["real"] else "" for name in _COMPARED),
        ]
        for each in found
    ]  # fmt: skip
    within = sum(abs(share) <= GOAL for each in found for share in each["difference"].values())
    count = sum(len(each["difference"]) for each in found)
    return Report(
        name="forecast", title="forecast / real run, and the difference", machine=here,
        grids=(Grid(("input", "images", "dry run", "seconds", "objects", "bytes", "requests"), rows),),
        notes=(
            f"{within} of {count} figures within {GOAL:.0%}",
            f"`python -m jobs.benchmarks.forecast --images {images}`; each run with {' '.join(flags)}",
            "seconds: from the start of the process to its exit; requests: counted by the server",
        ),
        values={"inputs": found},
    )  # fmt: skip


def _shown(name: str, value: float) -> str:
    return f"{value:.1f} s" if name == "seconds" else f"{value / 1e6:.3f} MB" if name == "bytes" else f"{value:,.0f}"


if __name__ == "__main__":
    main()
