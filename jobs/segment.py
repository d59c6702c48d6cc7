"""`segment`: label every image of the input."""

import logging
from typing import Any

import click

from jobs.command import Job, flags_of, run_job
from jobs.report import Report
from jobs.show import LogLines, kept, print_next, print_outcome, shown
from pipeline.config import SegmentConfig, load_config
from pipeline.driver.attempt import Attempt, Outcome
from pipeline.driver.progress import Progress
from pipeline.errors import BudgetExceeded, MaskfleetError
from pipeline.stopped import Stopped, stop_on_signals
from pipeline.storage import without_secrets

log = logging.getLogger(__name__)


@click.command(
    cls=Job,
    params=flags_of(SegmentConfig),
    options_metavar="--input URI --output URI [OPTIONS]",
    examples=(
        ("Label a folder with small weights that need no network:", "--input photos --output labels --weights bundled"),
        ("Say what a bucket would take, in time, bytes and price:", "--input s3://data/in --output s3://data/out --dry-run"),
    ),
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    help="TOML file with any of these flags; a flag wins: --no-… and none take back what the file sets.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write what is printed, and how it ended, as one JSON object.")
@click.option("--debug", is_flag=True, help="Ray's own log, and tracebacks.")
def main(config_file: str | None, json_file: str | None, debug: bool, **flags: Any) -> None:
    """Label every image of the input with a semantic segmentation network.

    Run the same command again to finish what is missing; nothing is labelled twice.

    Exit codes: 0 done, 1 a bug, 2 wrong usage, 3 failure budget exceeded (labels are kept), 4 input or storage
    not reachable, 5 incomplete (run again), 7 damaged (verify --repair), 130/143 stopped (run again).
    """
    report = Report(json_file)
    run_job(lambda: _segment(config_file, report, debug, flags), debug=debug, report=report)


def _segment(config_file: str | None, report: Report, debug: bool, flags: dict[str, Any]) -> int:
    stop_on_signals()
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="maskfleet: %(message)s", handlers=[LogLines()])
    config = load_config(flags, config_file)
    _warn_of_secrets(flags)
    if config.dry_run:
        from jobs.dry_run import dry_run

        return dry_run(config, report, debug=debug)
    outcome = label(config, debug=debug, report=report)
    report.values = {**outcome.run, "classes": outcome.classes}
    print_outcome(outcome.run, outcome.classes)
    if outcome.error is None or isinstance(outcome.error, BudgetExceeded):  # every image is labelled or a failure
        print_next(outcome.run, click.get_current_context().command_path)
    if outcome.error is not None:
        raise outcome.error
    return 0


def _warn_of_secrets(flags: dict[str, Any]) -> None:
    """Warn of secrets in arguments: lists of processes on this machine, and of jobs on a Ray cluster, show them."""
    for name in ("input", "weights"):
        given = flags[name] if isinstance(flags[name], tuple) else (flags[name],)
        if any(isinstance(text, str) and text != without_secrets(text) for text in given):
            log.warning(
                "--%s holds a secret, which others see in lists of processes and jobs: use a list of URIs or --config", name
            )


def label(config: SegmentConfig, *, debug: bool, report: Report | None = None) -> Outcome:
    """Run one attempt, shown on stderr. If it ends early, it writes down how far it came, in `report` too."""
    progress = Progress()
    attempt = Attempt(config, progress, debug=debug)
    try:
        stop_on_signals()
        with shown(progress, live=not debug):
            return attempt.run()
    except (Stopped, KeyboardInterrupt, MaskfleetError) as ended:
        if progress.done:
            ended.add_note(kept(progress))
        known = attempt.interrupt()
        if report is not None:
            report.values = known or {}
        raise


if __name__ == "__main__":
    main()
