"""The whole story of a run: list, plan, label in rounds, sum up."""

import logging
import os
import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from pipeline.config import SegmentConfig
from pipeline.driver.account import Account
from pipeline.driver.idle_timeout import gives_up_after
from pipeline.driver.obsolete import remove_obsolete
from pipeline.driver.progress import Progress
from pipeline.driver.stopped import stop_if_asked
from pipeline.errors import (
    BudgetExceeded,
    Bug,
    Damaged,
    Incomplete,
    MaskfleetError,
    NotReachable,
    StorageError,
    UsageError,
)  # fmt: skip
from pipeline.labels.prepare import prepare
from pipeline.labels.statistics import min_confidence_level
from pipeline.listing.listing import Listing, list_inputs
from pipeline.model.cpu import require_precision
from pipeline.model.engine import Prepared
from pipeline.output.footer import PartFooter
from pipeline.output.parts import PartTable
from pipeline.output.presigned import Secrets
from pipeline.output.remaining import has_remaining, image_count, planned_sources, waves
from pipeline.output.run_json import RunJson
from pipeline.output.span import PartReport, Span
from pipeline.plan.fingerprint import check_same, settings
from pipeline.plan.options import (
    check_head,
    check_new_output,
    heartbeat_rows,
    idle_minutes,
    label_options,
    network_request,
    read_options,
)  # fmt: skip
from pipeline.plan.plan import Plan, catch_up, extend_plan, read_plan, writes_queries
from pipeline.storage import WritableStore, writable_store_for
from pipeline.sums.derived import list_planned
from pipeline.sums.sums import Sums
from pipeline.worker.cutting import in_order, limited
from pipeline.worker.span_worker import WorkerConfig

if TYPE_CHECKING:
    from pipeline.driver.fleet import Fleet

_ROUNDS = 5  # of summing up, while other attempts end
IDLE_ROUNDS = 3  # that commit nothing, before the run gives up
REFRESH_S, _LONGEST_REFRESH_S = 10.0, 600.0
_PAUSE_S = 3.0
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
    """One attempt at a run. `run()` does it all; `interrupt()` writes down how far it came."""

    def __init__(self, config: SegmentConfig, progress: Progress, *, debug: bool = False) -> None:
        self.config, self.progress, self._debug = config, progress, debug
        self.store: WritableStore = writable_store_for(config.output)
        self.listing = Listing()
        self._account = Account(config, progress)
        self._network: Prepared | None = None
        self._settings: dict[str, Any] = {}
        self._sums: Sums | None = None
        self._committed: PartTable | None = None  # as listed last
        self._run_json = RunJson(self.store, config.output, self._account.id)
        self._plan: Plan | None = None
        self._refreshed, self._refresh_s = 0.0, REFRESH_S
        self._fatal: MaskfleetError | None = None
        self._fleet: Fleet | None = None

    def run(self) -> Outcome:
        """List, plan, label, sum up. Raises a `MaskfleetError` where nothing could start."""
        with ThreadPoolExecutor(1, "prepare") as thread:
            preparing = thread.submit(prepare, network_request(self.config))
            plan = self._plan = self._make_plan(preparing)
        self._network = preparing.result()
        self.progress.phase = "looking at what is there"
        self._sums = Sums(self.store, self.config.output, self._settings["fingerprint"], self._network.classes)
        self._committed = remove_obsolete(
            self.store, self.config.output, plan, self._sums.begin(), self._sums, self.config.redo,
            announce=lambda: self._write("running"),
        )  # fmt: skip
        self.progress.skipped = image_count(plan, self._committed)
        if self._is_written_down(plan):
            self.store.sweep(self.config.output)
            return self._judged(self._values("complete"), None, left=False)
        return self._end(plan, self._label(plan))

    def _make_plan(self, preparing: "Future[Prepared]") -> Plan:
        config, progress = self.config, self.progress
        progress.phase = "listing"
        try:
            plan = read_plan(self.store, config.output)
            self._run_json.look()
        except StorageError as error:
            raise NotReachable(f"--output: {error}") from error
        self.listing.queries = writes_queries(plan)
        if plan is None:
            check_new_output(config)
        entries = list_inputs(
            config.input, self.listing, input_format=config.input_format, image_column=config.image_column, output=config.output,
            allow_root=config.allow_root,
        )  # fmt: skip
        head = list(islice(entries, 1))
        if plan is None:
            check_head(replace(head[0], secret=self.listing.secrets.get(head[0].uri)), read_options(config))
            from pipeline.driver import ray_data as flow

            # Workers on this machine alone: what they would refuse is refused before there is a plan.
            if os.environ.get("RAY_ADDRESS") == "local":
                require_precision(config.precision)
            if flow.start_ray(debug=self._debug):  # takes seconds, in which the network is prepared
                require_precision(config.precision)
        progress.phase = "preparing the network"
        self._settings = settings(config, preparing.result())
        if plan is not None:
            check_same(plan.settings, self._settings, config.output)
        progress.phase = "planning"
        try:
            plan = extend_plan(
                self.store, config.output, plan, chain(head, entries), self._settings, relabel_changed=config.relabel_changed
            )
        except StorageError as error:
            raise NotReachable(f"--output: {error}") from error
        check_same(plan.settings, self._settings, config.output)  # another attempt may have written the plan
        self._settings = plan.settings  # an older version may have written it
        progress.planned_rows = sum(file.rows for file in plan.files if file.images)
        progress.planned_bytes = sum(shard.size or 0 for shard in plan.shards.values())
        return plan

    def _is_written_down(self, plan: Plan) -> bool:
        """Is all labelled, and does all that lies in OUT say so? Then nothing is written."""
        assert self._sums is not None
        assert self._committed is not None
        said, now = self._run_json.said, self._values("complete")
        counts = said.get("counts")
        same = isinstance(counts, dict) and all(counts.get(name) == now["counts"][name] for name in _COUNTED)
        same = same and all(said.get(name) == now[name] for name in _SAID)
        written = same and self._sums.are_written(self._committed, min_confidence_level(self.config.min_confidence))
        return written and not has_remaining(plan, self._committed)

    def _label(self, plan: Plan) -> str | None:
        """Passes over what is left until nothing is; why it stopped before that, or None."""
        assert self._sums is not None
        assert self._committed is not None
        with self._sums.kept(self._committed, planned_sources(plan)):
            return self._rounds(plan, self._committed)

    def _rounds(self, plan: Plan, committed: PartTable) -> str | None:
        config, progress = self.config, self.progress
        idle, reason = 0, None
        while not self._limited() and has_remaining(plan, committed):
            if not self._run_json.is_ours:  # a run that is whole is never said to be running
                self._write("running")
            progress.phase = "starting workers"
            refused = self._refused
            reason = self._round(plan, committed, patient=idle > 0)
            stop_if_asked()
            before, committed = committed.part_count, list_planned(self.store, config.output, planned_sources(plan))
            self._committed = committed
            if committed.part_count > before:
                idle = 0
            elif self._refused == refused or time.monotonic() - progress.last_part > 60 * config.idle_minutes:
                idle += 1  # nodes that refuse are known now, and the next round keeps off them
            if idle >= IDLE_ROUNDS and self._fleet is None:
                raise NotReachable(reason or "no Ray")  # there was none in any round
            if idle >= IDLE_ROUNDS or self._fatal is not None:
                return reason or "passes that commit nothing"
            if idle:
                time.sleep(_PAUSE_S * idle)
        return None

    def _where_to_begin(self, plan: Plan) -> float:
        """Where in the plan to begin: at its start, or, where another attempt wrote it and may be at work, anywhere."""
        alone = plan.added or self.config.limit is not None  # whose images are the first ones
        return 0.0 if alone else random.Random(self._account.id).random()  # noqa: S311 - not a secret

    def _limited(self) -> bool:
        return self.config.limit is not None and self.progress.done >= self.config.limit

    @property
    def _refused(self) -> int:
        """Nodes on which no worker can start, as far as it is known."""
        return 0 if self._fleet is None else self._fleet.refused

    def _round(self, plan: Plan, committed: PartTable, *, patient: bool) -> str | None:
        """Send what is left through Ray once; -> why it is not whole, or None. Faults of Ray end the round, not the run."""
        from pipeline.driver import ray_data as flow

        try:
            flow.start_ray(debug=self._debug)
        except NotReachable as error:  # a head that is started again is back soon
            return str(error)
        config = self.config
        assert self._network is not None
        worker = WorkerConfig(
            output=config.output, fingerprint=self._settings["fingerprint"], part_images=config.part_images,
            plan_format=self._settings.get("format", 1),
            read=read_options(config), labels=label_options(config, self._network), patient=patient,
            image_timeout_s=config.image_timeout_s, heartbeat_rows=heartbeat_rows(self._network),
            engine=self._settings["labels"]["engine"], labels_version=self._settings["labels"]["labels_version"],
        )  # fmt: skip
        reason = None
        try:
            fleet = self._fleet = self._fleet or flow.fleet(config.workers)
            left = waves(
                plan, committed, part_images=config.part_images, workers=fleet.may_be(), begin=self._where_to_begin(plan),
                secrets=Secrets(self.listing.secrets, config.output),
            )  # fmt: skip
            shared = flow.share(self._network)
            for spans in left:
                reports = flow.label(self._fitted(spans, fleet), worker, shared, fleet)
                with gives_up_after(idle_minutes(config), self.progress), closing(reports):
                    for report in reports:
                        stop_if_asked()
                        reason = self._take(report) or reason
                        if self._fatal is not None:
                            return reason
                if self._limited():
                    break
        except flow.NoWorkerLeft as nobody:
            self._fatal = self._fatal or nobody.error
            reason = str(nobody)
        except flow.RoundFailed as error:
            log.warning("a round failed, what is left is planned again: %s", error)
            if self._debug:
                log.exception("the round")
            reason = str(error)
        return reason

    def _fitted(self, spans: list[Span], fleet: "Fleet") -> list[Span]:
        """In the order in which they go, big shards to be cut; of `--limit` no more parts than it has left."""
        config = self.config
        if config.limit is not None:
            return limited(spans, config.limit - self.progress.done, config.part_images, fleet.there())
        return in_order(spans, fleet.soon())

    def _take(self, report: PartReport) -> str | None:
        progress = self.progress
        progress.inferred += report.inferred
        progress.milliseconds.update({stage: round(spent) for stage, spent in report.milliseconds.items()})
        progress.retries.update(report.retries)
        if report.part is not None or report.in_hand:
            progress.last_sign = time.monotonic()
            progress.phase = progress.phase if progress.parts else "labelling the first parts"
        if report.error is not None:
            for fatal in (Bug, UsageError, Damaged):
                if report.error_class == fatal.__name__:
                    self._fatal = self._fatal or fatal(report.error)
            return report.error
        if report.committed and report.footer is not None:
            footer = PartFooter.from_json(report.footer)
            assert self._sums is not None
            self._sums.totals.add(replace(footer.name, size=report.size, version=report.version), footer)
            progress.images += footer.masks + len(footer.failures)
            progress.failures += len(footer.failures)
            progress.read_bytes += report.bytes
            progress.parts += 1
            progress.phase, progress.last_part = "labelling", time.monotonic()
            began = progress.last_part - report.seconds
            progress.labelling_since = min(began, progress.labelling_since or began)
        if time.monotonic() - self._refreshed > self._refresh_s:
            self._refresh("running")
        return None

    def _refresh(self, state: str) -> None:
        """`run.json` for whoever looks; a store that refuses it now must not end the night."""
        try:
            self._write(state)
            self._refresh_s = REFRESH_S
        except StorageError as error:
            log.warning("run.json could not be refreshed: %s", error)
            self._refresh_s = min(2 * self._refresh_s, _LONGEST_REFRESH_S)  # reports wait while it is tried
        self._refreshed = time.monotonic()

    def _end(self, plan: Plan, reason: str | None) -> Outcome:
        """Sum up. What ended the labelling stays the reason if that fails, too."""
        try:
            return self._sum_up(plan, reason)
        except MaskfleetError as error:
            if self._fatal is None:
                raise
            raise self._fatal from error

    def _sum_up(self, plan: Plan, reason: str | None) -> Outcome:
        self.progress.phase = "summing up"
        assert self._sums is not None
        assert self._committed is not None
        min_level, left, run, committed = min_confidence_level(self.config.min_confidence), True, None, self._committed
        for _ in range(_ROUNDS):  # else another attempt ended in between, and wrote down more than is known here
            self._run_json.look()
            committed = self._sums.close(planned_sources(plan), min_level, committed, partial(has_remaining, plan))
            anything_remains = has_remaining(plan, committed)
            left = left and anything_remains
            if catch_up(self.store, self.config.output, plan):  # what another listed is its to label, and belongs to the sums
                committed = self._sums.close(planned_sources(plan), min_level, has_remaining=partial(has_remaining, plan))
                anything_remains = has_remaining(plan, committed)
            if (run := self._write("incomplete" if anything_remains else "complete")) is not None:
                break
        run = run or self._values("incomplete" if anything_remains else "complete")
        if not anything_remains:
            self.store.sweep(self.config.output)
        return self._judged(run, reason, left=left)

    def _judged(self, run: dict[str, Any], reason: str | None, *, left: bool) -> Outcome:
        """What it comes to. left: is there anything to label of what this attempt planned?"""
        assert self._sums is not None
        totals, config = self._sums.totals, self.config
        stopped = self._limited() and reason is None
        outcome = Outcome(run, classes=totals.class_stats(min_confidence_level(config.min_confidence)).to_pylist())
        if self._fatal is not None:
            outcome.error = self._fatal
        elif left and not stopped:
            outcome.error = Incomplete(f"not all is labelled ({reason or 'more came in'}): run the same command again")
        elif totals.broken_shards > config.allow_broken_shards:
            found = f"{totals.broken_shards} shards break off, --allow-broken-shards is {config.allow_broken_shards}"
            outcome.error = BudgetExceeded(f"{found}; the labels are kept")
        elif totals.images and totals.failures / totals.images > config.failure_budget:
            found = f"{totals.failures} of {totals.images} images failed, --failure-budget is {config.failure_budget:g}"
            outcome.error = BudgetExceeded(f"{found}; the labels are kept")
        return outcome

    def interrupt(self) -> dict[str, Any] | None:
        """Write down that this attempt ended before its time; what is committed is committed. -> What it knows, if anything."""
        if self._sums is None or self._sums.totals.is_torn:  # stopped in the middle of a sum: what was written before is true
            return None
        if self._run_json.is_ours:
            self._refresh("incomplete")
        self._sums.save()
        return self._values("incomplete")

    def _write(self, state: str) -> dict[str, Any] | None:
        """`run.json` as things stand; None if another attempt knows more."""
        values = self._values(state)
        return self._run_json.write(values, values["attempts"][-1])

    def _values(self, state: str) -> dict[str, Any]:
        assert self._sums is not None
        assert self._network is not None
        assert self._plan is not None
        return self._account.values(
            state, self._settings, self._network, self._plan, self._sums.totals, ignored=self.listing.ignored
        )
