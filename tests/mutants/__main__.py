"""`make mutants`: mutmut breaks the plan, what remains of it, and the parts in small ways; a test must notice each.

Those that none notices stand in `survivors.txt`, with the reason. One that is not there ends this with exit code 1.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from tests.conftest import ROOT

SURVIVORS = Path(__file__).with_name("survivors.txt")
_MUTMUT = (str(Path(sys.executable).with_name("mutmut")),)
_RESULT = re.compile(r"\s*(\S+): (.+)")
_CAUGHT = {"killed", "timeout", "caught by type check"}


@click.command()
@click.option("--minutes", default=60.0, show_default=True, help="Stop there; the next start goes on.")
@click.option("--processes", default=2, show_default=True)
def main(minutes: float, processes: int) -> None:
    """Try all mutants, or those that the last start left untried, and compare those that survive with the list."""
    if "not checked" not in _results().values():
        shutil.rmtree(ROOT / "mutants", ignore_errors=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # of mypy
    command = [*_MUTMUT, "run", "--max-children", str(processes)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        if process.wait(minutes * 60):
            raise click.ClickException("mutmut failed: see mutants/, or run `mutmut run` for what it prints")
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
    results = _results()
    untried = sum(result == "not checked" for result in results.values())
    survivors = [name for name, result in results.items() if result not in {*_CAUGHT, "not checked"}]
    with ThreadPoolExecutor(processes) as threads:
        found = dict(zip(threads.map(describe, survivors, threads.map(_shown, survivors)), survivors, strict=True))
    listed = read_listed(SURVIVORS.read_text(encoding="utf-8"))
    new, gone = found.keys() - listed, listed - found.keys() if not untried else set()
    for change in sorted(new):
        click.echo(f"survives, and is not listed: {change}    (mutmut show {found[change]})")
    for change in sorted(gone):
        click.echo(f"listed, and does not survive: {change}")
    noticed = len(results) - len(survivors) - untried
    click.echo(f"{len(results)} mutants: {noticed} noticed, {len(survivors)} survive, {untried} not tried")
    sys.exit(bool(new or gone or untried))


def _results() -> dict[str, str]:
    lines = _mutmut("results", "--all", "true").splitlines()
    return {found[1]: found[2] for line in lines if (found := _RESULT.fullmatch(line))}


def _shown(mutant: str) -> str:
    return _mutmut("show", mutant)


def _mutmut(*arguments: str) -> str:
    return subprocess.run([*_MUTMUT, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def describe(mutant: str, shown: str) -> str:
    """A mutant as one line that stays the same when other lines of its file change. shown: what `mutmut show` prints."""
    lines = shown.splitlines()
    file = next(line.removeprefix("--- ") for line in lines if line.startswith("--- "))
    function = (
        re.sub(r"__mutmut_\d+$", "", mutant.rpartition(".")[2]).removeprefix("x_").removeprefix("x\u01c1").replace("\u01c1", ".")
    )
    before, after = (_joined(line[1:] for line in lines if re.match(rf"{sign}(?!{sign}{sign} )", line)) for sign in ("-", r"\+"))
    return f"{file} {function}: {before} => {after}"


def _joined(lines: Iterable[str]) -> str:
    return " ".join(line.strip() for line in lines)


def read_listed(text: str) -> set[str]:
    """The changes in `survivors.txt`; lines with # in front give the reason for those below them."""
    return {line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")}


if __name__ == "__main__":
    main()
