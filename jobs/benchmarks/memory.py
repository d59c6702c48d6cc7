"""Memory of driver and workers over a long run: unique set size (USS) every few seconds.

`python -m jobs.benchmarks.memory --images 20000`: repeats photographs in tars of 500, labels them, prints USS.
RSS would count Ray's shared object store too.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import click
import psutil

from jobs.benchmarks.engines import cpu_name, sample_photographs
from jobs.command import run_job

IMAGES_A_TAR = 500
_MIB = 1 << 20


@click.command()
@click.option("--images", default=2000, show_default=True)
@click.option("--photos", metavar="FOLDER", multiple=True, help="JPEGs to repeat [default: the bundled photographs].")
@click.option("--every-s", default=10.0, show_default=True)
@click.option("--short-side", type=int, default=None, help="[default: what the bundled weights say]")
def main(images: int, photos: tuple[str, ...], every_s: float, short_side: int | None) -> None:
    """Label many images and watch the memory."""
    run_job(lambda: _memory(images, photos, every_s, short_side))


def write_tars(folder: Path, data: list[bytes], images: int) -> None:
    """`images` photographs, repeated, as shards of 500."""
    for shard in range(-(-images // IMAGES_A_TAR)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for index in range(shard * IMAGES_A_TAR, min(images, (shard + 1) * IMAGES_A_TAR)):
                member = tarfile.TarInfo(f"{index:08d}.jpg")
                member.size = len(data[index % len(data)])
                tar.addfile(member, io.BytesIO(data[index % len(data)]))


def _memory(images: int, photos: tuple[str, ...], every_s: float, short_side: int | None) -> int:
    data = [file.read_bytes() for folder in photos for file in sorted(Path(folder).glob("*.jpg"))] or sample_photographs()
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "in", Path(scratch) / "out"
        source.mkdir()
        write_tars(source, data, images)
        command = [sys.executable, "-m", "jobs.segment", "--input", str(source), "--output", str(out), "--weights", "bundled"]
        command += ["--short-side", str(short_side)] if short_side else []
        started = time.monotonic()
        process = subprocess.Popen(command)
        click.echo(f"{images} images, {cpu_name()}; USS in MiB\n{'seconds':>8} {'driver':>8} {'workers':>20}")
        while process.poll() is None:
            time.sleep(every_s)
            _print_sample(process.pid, time.monotonic() - started)
        click.echo(f"{images / (time.monotonic() - started):.1f} images/s in all, start and end included")
        return process.returncode


def _print_sample(pid: int, seconds: float) -> None:
    try:
        driver = psutil.Process(pid)
        workers = [child for child in driver.children(recursive=True) if "MapWorker" in "".join(child.cmdline())]
        sizes = [f"{child.memory_full_info().uss / _MIB:.0f}" for child in workers]
        click.echo(f"{seconds:8.0f} {driver.memory_full_info().uss / _MIB:8.0f} {' '.join(sizes):>20}")
    except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, OSError):
        return


if __name__ == "__main__":
    os.environ.setdefault("RAY_ADDRESS", "local")  # the processes that are watched are this machine's
    main()
