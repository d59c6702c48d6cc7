"""`make chaos SEEDS=200`: seeded runs through faults, one line each in FILE; what is in FILE already is not run again."""

import os
import sys
from pathlib import Path

import click

from jobs.bench import markdown_table
from tests.chaos.cluster import chaos_cluster
from tests.chaos.run import FAULTS, IMAGES, Result, reference_of, run_seed


@click.command()
@click.option("--seeds", default=200, show_default=True)
@click.option("--first", default=0, show_default=True)
@click.option("--record", default="out/chaos.jsonl", show_default=True, metavar="FILE")
def main(seeds: int, first: int, record: str) -> None:
    """Kill workers, nodes and drivers at random moments, and prove that the result is that of an undisturbed run."""
    file = Path(record)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text().splitlines() if file.exists() else []
    done = {result.seed: result for result in map(Result.from_json, lines)}
    left = [seed for seed in range(first, first + seeds) if seed not in done]
    if left:
        os.environ["RAY_ADDRESS"] = "local"
        folder = file.with_suffix("").absolute()  # the same for every start, as labels_digest knows names; what went wrong stays
        folder.mkdir(exist_ok=True)
        with chaos_cluster(folder / "trace") as cluster:
            reference = reference_of(folder, cluster)
            for seed in left:
                done[seed] = result = run_seed(seed, folder, cluster, reference)
                click.echo(f"seed {seed}: {'right' if result.is_right else 'WRONG'} {result.to_json()}", err=True)
                with file.open("a") as record_file:
                    record_file.write(result.to_json() + "\n")
    found = [done[seed] for seed in range(first, first + seeds)]
    click.echo(table(found))
    sys.exit(not all(result.is_right for result in found))


def table(found: list[Result]) -> str:
    """By what was killed: a run counts in each row of which it had a fault, and in the last."""
    rows = []
    for kind in (*FAULTS, "any"):
        runs = [run for run in found if kind == "any" or any(fault[0] == kind for fault in run.faults)]
        deaths = sum(kind in ("any", fault[0]) for run in runs for fault in run.faults)
        again = sum(run.inferred for run in runs) / max(1, IMAGES * len(runs))
        sums = (
            sum(run.attempts - 1 for run in runs),
            f"{again:.2f}",
            sum(run.lost for run in runs),
            sum(run.twice for run in runs),
        )
        others = sum(not run.same_parts for run in runs)
        rows.append([kind, *map(str, (len(runs), deaths, *sums, len({run.digest for run in runs}), others))])
    columns = (
        "kill -9 of a", "runs", "deaths", "reruns", "inferred / images", "rows lost", "rows twice", "labels_digests",
        "runs with other part files",
    )  # fmt: skip
    return markdown_table(columns, rows)


if __name__ == "__main__":
    main()
