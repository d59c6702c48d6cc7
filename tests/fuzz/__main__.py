"""`make fuzz`: 100,000 mutated inputs, a thousand to a process; a process that dies or hangs leaves the seed that did it."""

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

from tests.conftest import ROOT

BATCH = 1_000
_BATCH_S = 900.0


@click.command()
@click.option("--inputs", default=100_000, show_default=True)
@click.option("--first", default=0, show_default=True, help="Seed.")
@click.option("--processes", default=2, show_default=True)
def main(inputs: int, first: int, processes: int) -> None:
    """Mutate images, tars and Parquet files; each image must become a mask or a failure."""
    batches = [range(start, min(start + BATCH, first + inputs)) for start in range(first, first + inputs, BATCH)]
    found, wrong, running = Counter[str](), list[str](), list[tuple[range, Path, subprocess.Popen[str], float]]()
    with tempfile.TemporaryDirectory(prefix="maskfleet-fuzz-") as scratch:
        while batches or running:
            while batches and len(running) < processes:
                seeds = batches.pop(0)
                at = Path(scratch) / f"{seeds.start}"
                command = [sys.executable, "-m", "tests.fuzz.batch", str(seeds.start), str(seeds.stop), str(at)]
                process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                running.append((seeds, at, process, time.monotonic()))
            time.sleep(0.1)
            for job in [job for job in running if job[2].poll() is not None or time.monotonic() - job[3] > _BATCH_S]:
                running.remove(job)
                seeds, at, process, _ = job
                hangs = process.poll() is None
                process.kill()
                said, _ = process.communicate()
                if hangs or process.returncode:
                    seed = int(at.read_text() or seeds.start)
                    how = "hangs" if hangs else f"ends with {process.returncode}"
                    wrong.append(f"seed {seed}: {how}\n{said[-2000:]}")
                    click.echo(wrong[-1], err=True)
                    if seed + 1 < seeds.stop:
                        batches.insert(0, range(seed + 1, seeds.stop))
                else:
                    found.update(_counts(said))
    total = ", ".join(f"{name} {count:,}" for name, count in found.most_common())
    click.echo(f"{inputs:,} inputs: {len(wrong)} crashes, hangs or other errors; images: {total}")
    sys.exit(bool(wrong))


def _counts(said: str) -> Counter[str]:
    pairs = (line.split() for line in said.splitlines()[-20:] if line.startswith("found "))
    return Counter({name: int(count) for _, name, count in pairs})


if __name__ == "__main__":
    main()
