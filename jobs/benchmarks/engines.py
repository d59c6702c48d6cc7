"""Images a second a core of each engine, network alone: interleaved, medians, as ratios.

`python -m jobs.benchmarks.engines [--short-side 520]`: the bundled photographs, one thread, batch 1.
"""

import time
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from jobs.command import run_job
from pipeline.decode import decode
from pipeline.model.loading import load_engine
from pipeline.model.prepare import NetworkRequest, prepare
from pipeline.model.preprocess import resize
from pipeline.shards.base import Cursor, ReadOptions, Shard
from pipeline.shards.tar import read_tar
from pipeline.storage import store_for

SAMPLE = Path("jobs/sample")
MODEL = "lraspp_mobilenet_v3_large"


@click.command()
@click.option("--short-side", default=520, show_default=True)
@click.option("--rounds", default=7, show_default=True)
def main(short_side: int, rounds: int) -> None:
    """Measure torch and OpenVINO side by side."""
    run_job(lambda: _engines(short_side, rounds))


def cpu_name() -> str:
    """What /proc says of this processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor")


def sample_photographs() -> list[bytes]:
    """The bundled photographs, encoded."""
    found: list[bytes] = []
    for path in sorted(SAMPLE.glob("*.tar")):
        info = store_for(str(path.absolute())).stat(str(path.absolute()))
        shard = Shard(uri=info.uri, kind="tar", size=info.size, version=info.version)
        found += [image.data for image in read_tar(store_for(info.uri), shard, Cursor(), ReadOptions()) if image.data]
    return found


def _engines(short_side: int, rounds: int) -> int:
    names = ("torch", "openvino")
    engines = {
        name: load_engine(prepare(NetworkRequest(model=MODEL, weights="bundled", engine=name, short_side=short_side)))
        for name in names
    }
    images = [
        resize(decode(data, max_source_pixels=1 << 30).image, short_side, max_pixels=1 << 30) for data in sample_photographs()
    ]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name, engine in engines.items():
            started = time.perf_counter()
            for image in images:
                engine.logits(image)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    table = Table(
        title=f"network alone, one thread, short side {short_side}, {cpu_name()} ({engines['openvino'].instruction_set})"
    )
    for column in ("engine", "images/s a core", "ratio to torch (median of pairs)"):
        table.add_column(column)
    for name in names:
        ratio = median(base / mine for base, mine in zip(seconds["torch"], seconds[name], strict=True))
        table.add_row(engines[name].version, f"{len(images) / median(seconds[name]):.1f}", f"{ratio:.2f}")
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    main()
