"""`bench peers`: the recipes of Ray Data, Daft and a DataLoader, and our own worker under other schedulers.

The contenders are in `tests/peers/`, which only a checkout has; what they need is in the extra `peers`.
"""

import importlib

import click

from jobs.benchmarks.machine import machine
from jobs.benchmarks.photographs import photographs
from jobs.benchmarks.report import OUT, need_altair, publish
from jobs.command import run_job
from pipeline.errors import UsageError
from pipeline.stopped import stop_on_signals

NAMES = ("ray-16", "ray", "daft", "dataloader", "daft-worker", "multiprocessing", "maskfleet")
IMAGES_A_CORE = 48


@click.command()
@click.option("--photos", metavar="FOLDER", multiple=True, help="JPEGs to label; repeat it [default: the bundled photographs].")
@click.option(
    "--images",
    type=click.IntRange(min=2),
    help=f"In a run of a recipe, twice as many in one of ours [default: {IMAGES_A_CORE} a core].",
)
@click.option("--pairs", type=click.IntRange(min=1), default=5, show_default=True, help="Rounds of all contenders.")
@click.option("--short-side", type=click.IntRange(16, 8192), default=520, show_default=True, help="Recipes: squares of this.")
@click.option("--precision", type=click.Choice(("fp32", "bf16")), default="fp32", show_default=True, help="Of our worker.")
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="Measure this one; repeat it [default: all].")
@click.option("--out", metavar="FOLDER", default=OUT, show_default=True)
def main(
    photos: tuple[str, ...], images: int | None, pairs: int, short_side: int, precision: str, only: tuple[str, ...], out: str
) -> None:
    """Measure maskfleet's job against what others would write, and its worker under other schedulers.

    `make peers` installs all of them and runs this; it takes half an hour to three quarters on two cores.
    """
    run_job(lambda: _peers(photos, images, pairs, short_side, precision, only or NAMES, out))


def _peers(
    photos: tuple[str, ...], images: int | None, pairs: int, short_side: int, precision: str, only: tuple[str, ...], out: str
) -> int:
    need_altair()
    try:
        table = importlib.import_module("tests.peers.table")
    except ImportError as error:
        raise UsageError(f"bench peers runs in a checkout of maskfleet, in the folder of its README ({error})") from error
    stop_on_signals()  # so that no contender outlives this process
    found = machine()
    images = images or IMAGES_A_CORE * found["cores"]
    report, charts = table.measure(
        photographs(photos), found, names=only, images=images, pairs=pairs, short_side=short_side, precision=precision, out=out
    )
    publish(report, out, charts)
    return 0
