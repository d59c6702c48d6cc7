"""`verify`: prove that an output is whole."""

import click

from jobs.command import run_job, write_json
from pipeline.products.verify import Verification, verify

MAX_LINES = 20  # of findings, on the terminal; --json has them all


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("out", metavar="OUT")
@click.option("--deep", is_flag=True, help="Decode every mask too, and count its pixels again.")
@click.option("--json", "json_file", metavar="FILE", help="Write what is found, all of it, as one JSON object.")
@click.option("--debug", is_flag=True, help="Tracebacks.")
def main(out: str, deep: bool, json_file: str | None, debug: bool) -> None:
    """Prove that the run at OUT is whole: each planned image is a mask or a failure, none twice, every file intact.

    Reads every byte of the output, and nothing of the input. Writes nothing to OUT.

    Exit codes: 0 whole, 1 a bug, 2 wrong usage, 4 no run there or not reachable, 5 incomplete (run `segment` again),
    7 damaged.
    """
    run_job(lambda: _verify(out, json_file, deep=deep), debug=debug)


def _verify(out: str, json_file: str | None, *, deep: bool) -> int:
    found = verify(out, deep=deep)
    write_json(json_file, found.as_json())
    for line in _lines(found):
        click.echo(line)
    return found.exit_code


def _lines(found: Verification) -> list[str]:
    counts = ((name, getattr(found, name)) for name in ("images", "masks", "failures", "parts"))
    lines = [f"{name:<10}{count:,}" for name, count in counts]
    lines += [f"{finding.kind}: {finding.object}: {finding.problem}" for finding in found.findings[:MAX_LINES]]
    if (more := len(found.findings) - MAX_LINES) > 0:
        lines.append(f"and {more:,} more")
    lines.append(f"verify: {found.state}" + (f"; {found.advice}" if found.advice else ""))
    return lines


if __name__ == "__main__":
    main()
