"""One tar of many gigabytes: `python -m jobs.benchmarks.one_tar --gigabytes 5`. Are all workers busy to its end?"""

import itertools
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import click

from jobs.benchmarks.large import KINDS, enlarged
from jobs.benchmarks.machine import machine
from jobs.benchmarks.photographs import add_member, photographs
from jobs.benchmarks.report import OUT, Grid, Report, publish
from jobs.benchmarks.watched_run import Watched, watched_run
from jobs.command import run_job

_MEMORY_EVERY_S = 2.0


@click.command()
@click.option("--gigabytes", default=5.0, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--short-side", default=128, show_default=True)
@click.option("--photos", metavar="FOLDER", multiple=True, help="JPEGs to enlarge and repeat [default: the bundled photographs].")
@click.option("--out", default=OUT, show_default=True, metavar="FOLDER")
def main(gigabytes: float, workers: int, short_side: int, photos: tuple[str, ...], out: str) -> None:
    """Label one tar of 12-megapixel photographs."""
    os.environ["RAY_ADDRESS"] = "local"  # the processes that are watched are this machine's
    run_job(lambda: _one_tar(gigabytes, workers, short_side, photos, out))


def _one_tar(gigabytes: float, workers: int, short_side: int, photos: tuple[str, ...], out: str) -> int:
    here = machine()
    with tempfile.TemporaryDirectory(prefix="maskfleet-") as folder:
        source, labels = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        size = write_tar(
            source / "one.tar",
            [enlarged(data, KINDS[0], seed) for seed, data in enumerate(photographs(photos)[:8])],
            gigabytes * 1e9,
        )
        flags = ["--weights", "bundled", "--short-side", str(short_side), "--workers", str(workers)]
        run = watched_run(source, labels, flags, every_s=_MEMORY_EVERY_S)
        said = labels.with_suffix(".log").read_text()
        shutil.rmtree(labels)
    publish(_report(run, size, short_side, said, here), out)
    return 0


def write_tar(file: Path, images: list[bytes], min_bytes: float) -> int:
    """A tar of at least so many bytes; -> its size."""
    with tarfile.open(file, "w") as tar:
        for index in itertools.count():
            if tar.offset >= min_bytes:
                break
            add_member(tar, images, index)
    return file.stat().st_size


def _report(run: Watched, size: int, short_side: int, said: str, here: dict[str, object]) -> Report:
    peaks = {
        name: max(mib for _, who, mib in run.memory if who == name) for name in dict.fromkeys(who for _, who, _ in run.memory)
    }
    warnings = sum("warn" in line.lower() for line in said.splitlines())
    row = [
        f"{size / 1e9:.1f}", f"{run.images:,}", f"{run.seconds:.0f}", str(len(run.stamps)), f"{run.tail_s:.1f}",
        f"{max(peaks.values()):.0f}", str(warnings),
    ]  # fmt: skip
    columns = (
        "GB in one tar",
        "images",
        "seconds",
        "workers that labelled",
        "last worker alone, s",
        "peak MiB of a process",
        "warnings",
    )
    return Report(
        name="one-tar", title=f"One tar, short side {short_side}", machine=here, grids=(Grid(columns, [row]),),
        values={
            "bytes": size, "images": run.images, "seconds": run.seconds, "tail_s": run.tail_s, "peaks_mib": peaks,
            "warnings": warnings,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
