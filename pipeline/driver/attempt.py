"""The whole story of a run: list, plan, label in rounds, sum up."""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.config import SegmentConfig
from pipeline.driver.labelling import Labelling
from pipeline.driver.planning import Begun, Hooks, make_plan
from pipeline.driver.progress import Account, Progress
from pipeline.driver.rounds import Rounds
from pipeline.errors import BudgetExceeded, Incomplete, MaskfleetError, StorageError
from pipeline.labels.prepare import prepare
from pipeline.labels.statistics import min_confidence_level
from pipeline.listing.listing import Listing
from pipeline.model.cpu import require_precision
from pipeline.output.remaining import has_remaining, planned_sources
from pipeline.output.reports import Event, Events, PartCommitted, PartReport
from pipeline.output.run_json import RunJson
from pipeline.output.span import Secrets
from pipeline.plan.options import network_request
from pipeline.plan.plan import Plan, catch_up
from pipeline.storage import WritableStore, writable_store_for

if TYPE_CHECKING:
    from pipeline.driver.fleet import Fleet

_CLOSING_ROUNDS = 5  # so many times an attempt sums up while other attempts end
REFRESH_S, _LONGEST_REFRESH_S = 10.0, 600.0
_SAID = ("state", "format", "labels_digest", "errors", "plan_files", "fingerprint", "labels", "shape")
_COUNTED = ("images", "masks", "failures", "broken_shards")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """How an attempt ended: what `run.json` says, and the error that decides the exit code, if any."""

    run: dict[str, Any]
    error: MaskfleetError | None = None
    classes: list[dict[str, Any]] = field(default_factory=list)


class Attempt:
    """One attempt at a run. `run()` does all of it; `interrupt()` writes down how far it came. events: take more listeners."""

    def __init__(self, config: SegmentConfig, progress: Progress, *, debug: bool = False) -> None:
        self.config, self.progress, self._debug = config, progress, debug
        self.store: WritableStore = writable_store_for(config.output)
        self.listing, self.events = Listing(), Events()
        self._account = Account(config, progress)
        self._begun: Begun | None = None
        self._labelling: Labelling | None = None
        self._run_json = RunJson(self.store, config.output, self._account.id)
        self._refreshed, self._refresh_s = 0.0, REFRESH_S
        for listener in (self._add_up, progress.hear, self._refresh_if_due):
            self.events.listen(listener)

    def run(self) -> Outcome:
        """List, plan, label, sum up. Raises a `MaskfleetError` if nothing could start."""
        config, progress = self.config, self.progress
        with ThreadPoolExecutor(1, "prepare") as thread:
            preparing = thread.submit(prepare, network_request(config))
            hooks = Hooks(self._phase, self._run_json.look, self._new_output)
            plan, network = make_plan(config, self.store, self.listing, preparing.result, hooks)
        progress.planned_rows = sum(file.rows for file in plan.files if file.images)
        progress.planned_bytes = sum(shard.size or 0 for shard in plan.shards.values())
        progress.phase = "looking at what is there"
        begun = self._begun = Begun.of(config, self.store, plan, network)
        progress.skipped = begun.look(config, self.store, announce=lambda: self._write("running"))
        progress.skipped_parts = begun.committed.part_count
        secrets = Secrets(self.listing.secrets, config.output)
        self._labelling = Labelling(config, self.store, begun, secrets, self.events, progress, self._account.id)
        if self._is_written_down():
            self.store.sweep(config.output)
            return self._judged(self._values("complete"), None, remains=False)
        return self._end(plan, self._label(plan))

    def _phase(self, text: str) -> None:
        self.progress.phase = text

    def _new_output(self) -> None:
        """Start Ray, which takes seconds, while the network is prepared. Raises `NotReachable` or `UsageError`."""
        from pipeline.driver import ray_data as flow

        # If all workers run on this machine, a precision that they would refuse is refused before there is a plan.
        if os.environ.get("RAY_ADDRESS") == "local":
            require_precision(self.config.precision)
        self._phase("starting Ray")
        if flow.start_ray(debug=self._debug):
            require_precision(self.config.precision)

    def _is_written_down(self) -> bool:
        """Is everything labelled, and do all files in OUT say so? Then nothing is written."""
        begun = self._known
        said, now = self._run_json.said, self._values("complete")
        counts = said.get("counts")
        same = isinstance(counts, dict) and all(counts.get(name) == now["counts"][name] for name in _COUNTED)
        same = same and all(said.get(name) == now[name] for name in _SAID)
        written = same and begun.sums.are_written(begun.committed, min_confidence_level(self.config.min_confidence))
        return written and not has_remaining(begun.plan, begun.committed)

    @property
    def _known(self) -> Begun:
        assert self._begun is not None
        return self._begun

    def _label(self, plan: Plan) -> str | None:
        """Label in rounds until nothing remains -> None, or why the rounds ended before that."""
        assert self._labelling is not None
        labelling, begun = self._labelling, self._known
        rounds = Rounds(self._start_round, self._fleet, labelling.stalled, debug=self._debug)
        with begun.sums.kept(begun.committed, planned_sources(plan)):
            return rounds.run(labelling)

    def _start_round(self) -> None:
        from pipeline.driver import ray_data as flow

        if not self._run_json.is_ours:  # written this late, so that a complete run is never called running
            self._write("running")
        self.progress.phase = "starting workers"
        flow.start_ray(debug=self._debug)

    def _fleet(self) -> "Fleet":
        from pipeline.driver import ray_data as flow

        return flow.fleet(self.config.workers, self.events)

    def _add_up(self, event: Event) -> None:
        if isinstance(event, PartCommitted):
            self._known.sums.totals.add(event.part, event.footer)

    def _refresh_if_due(self, event: Event) -> None:
        is_sign = isinstance(event, PartReport) and event.error is None  # emitted last: sums and progress have counted it
        if is_sign and time.monotonic() - self._refreshed > self._refresh_s:
            self._refresh("running")

    def _refresh(self, state: str) -> None:
        """Write `run.json` for whoever looks. A store that refuses the write must not end the run."""
        try:
            self._write(state)
            self._refresh_s = REFRESH_S
        except StorageError as error:
            log.warning("run.json could not be refreshed: %s", error)
            self._refresh_s = min(2 * self._refresh_s, _LONGEST_REFRESH_S)  # reports wait during each try
        self._refreshed = time.monotonic()

    def _end(self, plan: Plan, reason: str | None) -> Outcome:
        """Sum up. If this fails too, the error that ended the labelling stays the reason."""
        try:
            return self._sum_up(plan, reason)
        except MaskfleetError as error:
            if self._fatal is None:
                raise
            raise self._fatal from error

    @property
    def _fatal(self) -> MaskfleetError | None:
        return None if self._labelling is None else self._labelling.fatal

    def _sum_up(self, plan: Plan, reason: str | None) -> Outcome:
        self.progress.phase = "summing up"
        sums, committed = self._known.sums, self._known.committed
        min_level, remains, run = min_confidence_level(self.config.min_confidence), True, None
        for _ in range(_CLOSING_ROUNDS):  # again if another attempt ended in between, and wrote more than this one knows
            self._run_json.look()
            committed = sums.close(planned_sources(plan), min_level, committed, partial(has_remaining, plan))
            anything_remains = has_remaining(plan, committed)
            remains = remains and anything_remains
            if catch_up(self.store, self.config.output, plan):  # another attempt labels its new rows, but the sums hold them
                committed = sums.close(planned_sources(plan), min_level, has_remaining=partial(has_remaining, plan))
                anything_remains = has_remaining(plan, committed)
            if (run := self._write("incomplete" if anything_remains else "complete")) is not None:
                break
        run = run or self._values("incomplete" if anything_remains else "complete")
        if not anything_remains:
            self.store.sweep(self.config.output)
        return self._judged(run, reason, remains=remains)

    def _judged(self, run: dict[str, Any], reason: str | None, *, remains: bool) -> Outcome:
        """The outcome, with the error if there is one. remains: does anything remain that this attempt planned?"""
        assert self._labelling is not None
        totals, config = self._known.sums.totals, self.config
        stopped = self._labelling.is_limited() and reason is None
        outcome = Outcome(run, classes=totals.class_stats(min_confidence_level(config.min_confidence)).to_pylist())
        if self._fatal is not None:
            outcome.error = self._fatal
        elif remains and not stopped:
            outcome.error = Incomplete(f"not all is labelled ({reason or 'more came in'}): run the same command again")
        elif totals.broken_shards > config.allow_broken_shards:
            found = f"{totals.broken_shards} shards break off, --allow-broken-shards is {config.allow_broken_shards}"
            outcome.error = BudgetExceeded(f"{found}; the labels are kept")
        elif totals.images and totals.failures / totals.images > config.failure_budget:
            found = f"{totals.failures} of {totals.images} images failed, --failure-budget is {config.failure_budget:g}"
            outcome.error = BudgetExceeded(f"{found}; the labels are kept")
        return outcome

    def interrupt(self) -> dict[str, Any] | None:
        """Write down that this attempt ended early -> the values of `run.json`, or None. Committed parts stay."""
        if (
            self._begun is None or self._begun.sums.totals.is_torn
        ):  # stopped in the middle of a sum: the values that were written before stay true
            return None
        if self._run_json.is_ours:
            self._refresh("incomplete")
        self._begun.sums.save()
        return self._values("incomplete")

    def _write(self, state: str) -> dict[str, Any] | None:
        """Write `run.json` -> its values, or None if another attempt knows more."""
        values = self._values(state)
        return self._run_json.write(values, values["attempts"][-1])

    def _values(self, state: str) -> dict[str, Any]:
        begun = self._known
        return self._account.values(state, begun.network, begun.plan, begun.sums.totals, ignored=self.listing.ignored)
