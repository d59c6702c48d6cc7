"""`make chaos SEEDS=200`: seeded runs through faults, one line each in FILE; what is in FILE already is not run again."""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from jobs.benchmarks.report import Grid
from tests.chaos.cluster import chaos_cluster
from tests.chaos.run import FAULTS, IMAGES, reference_of, run_seed


@click.command()
@click.option("--seeds", default=200, show_default=True)
@click.option("--first", default=0, show_default=True)
@click.option("--record", default="out/chaos.jsonl", show_default=True, metavar="FILE")
def main(seeds: int, first: int, record: str) -> None:
    """Kill workers, nodes and drivers at random moments, and prove that the result is that of an undisturbed run."""
    file = Path(record)
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {line["seed"]: line for line in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    left = [seed for seed in range(first, first + seeds) if seed not in done]
    if left:
        os.environ["RAY_ADDRESS"] = "local"
        folder = file.with_suffix("").absolute()  # the same for every start, as labels_digest knows names; what went wrong stays
        folder.mkdir(exist_ok=True)
        with chaos_cluster(folder / "trace") as cluster:
            reference = reference_of(folder, cluster)
            for seed in left:
                result = run_seed(seed, folder, cluster, reference)
                click.echo(f"seed {seed}: {'right' if result.is_right else 'WRONG'} {result.to_json()}", err=True)
                with file.open("a") as record_file:
                    record_file.write(result.to_json() + "\n")
                done[seed] = json.loads(result.to_json())
    found = [done[seed] for seed in range(first, first + seeds)]
    click.echo(table(found).to_markdown())
    sys.exit(any(_is_wrong(line) for line in found))


def _is_wrong(line: dict[str, Any]) -> bool:
    right = line["faults"] and not line["lost"] and not line["twice"] and line["same_parts"] and line["verified"] == "whole"
    return not right


def table(found: list[dict[str, Any]]) -> Grid:
    """By what was killed: a run counts in each row of which it had a fault, and in the last."""
    rows = []
    for kind in (*FAULTS, "any"):
        runs = [line for line in found if kind == "any" or any(fault[0] == kind for fault in line["faults"])]
        deaths = Counter(fault[0] for line in runs for fault in line["faults"])
        again = sum(line["inferred"] for line in runs) / max(1, IMAGES * len(runs))
        rows.append([
            kind, str(len(runs)), str(deaths.total() if kind == "any" else deaths[kind]),
            str(sum(line["attempts"] - 1 for line in runs)), f"{again:.2f}", str(sum(line["lost"] for line in runs)),
            str(sum(line["twice"] for line in runs)), str(len({line["digest"] for line in runs})),
            str(sum(not line["same_parts"] for line in runs)),
        ])  # fmt: skip
    columns = (
        "kill -9 of a", "runs", "deaths", "reruns", "inferred / images", "rows lost", "rows twice", "labels_digests",
        "runs with other part files",
    )  # fmt: skip
    return Grid(columns, rows)


if __name__ == "__main__":
    main()
