"""`verify`: prove that an output is whole."""

from typing import Any

import click

from jobs.command import Job, run_job
from jobs.report import Report
from pipeline.errors import printable
from pipeline.stopped import stop_on_signals
from pipeline.verify.repair import repair
from pipeline.verify.verify import Verification, verify

MAX_LINES = 20  # most findings on the terminal; --json has all of them


@click.command(
    cls=Job,
    examples=(
        ("Prove a run on this machine, to the last pixel:", "out/photos --deep"),
        ("Remove the broken parts of a run in a bucket; `segment` then labels them again:", "s3://bucket/labels --repair"),
    ),
)
@click.argument("out", metavar="OUT")
@click.option("--deep", is_flag=True, help="Decode every mask too, and count its pixels again.")
@click.option("--repair", "repairs", is_flag=True, help="Remove broken parts, and make derived files again.")
@click.option("--json", "json_file", metavar="FILE", help="Write what is found, all of it, and how it ended, as one JSON object.")
@click.option("--debug", is_flag=True, help="Tracebacks.")
def main(out: str, deep: bool, repairs: bool, json_file: str | None, debug: bool) -> None:
    """Prove that the run at OUT is whole: each planned image is a mask or a failure, none twice, every file intact.

    Reads every byte of the output, and nothing of the input. Writes nothing to OUT unless --repair is given: that removes
    exactly the broken parts, which the same `segment` command then labels again, and says what is still wrong.

    Exit codes: 0 whole, 1 a bug, 2 wrong usage, 4 no run there or not reachable, 5 incomplete (run `segment` again),
    7 damaged.
    """
    report = Report(json_file)
    run_job(lambda: _verify(out, report, deep=deep, repairs=repairs), debug=debug, report=report, goes_on=False)


def _verify(out: str, report: Report, *, deep: bool, repairs: bool) -> int:
    stop_on_signals()
    values: dict[str, Any] = {}
    lines: list[str] = []
    if repairs:
        done = repair(out, deep=deep)
        found = done.now
        values = {"removed": [finding.as_json() for finding in done.removed], "made": list(done.made)}
        lines = _shortened([f"removed: {finding.object}: {finding.problem}" for finding in done.removed])
        lines += _shortened([f"made again, or removed as no part's: {name}" for name in done.made])
    else:
        found = verify(out, deep=deep)
    report.values = found.as_json() | values
    for line in [*lines, *_lines(found)]:
        click.echo(printable(line.replace("\n", " ")))  # shard names may hold any characters
    return found.exit_code


def _lines(found: Verification) -> list[str]:
    counts = ((name, getattr(found, name)) for name in ("images", "masks", "failures", "parts"))
    lines = [f"{name:<10}{count:,}" for name, count in counts]
    lines += _shortened([f"{finding.kind}: {finding.object}: {finding.problem}" for finding in found.findings])
    lines.append(f"verify: {found.state}" + (f"; {found.advice}" if found.advice else ""))
    return lines


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - MAX_LINES
    return lines[:MAX_LINES] + ([f"and {more:,} more"] if more > 0 else [])


if __name__ == "__main__":
    main()
