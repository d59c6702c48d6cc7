"""The work of the rounds: the remaining spans of a plan go out, reports come in."""

import random
import time
from contextlib import closing
from typing import TYPE_CHECKING

from pipeline.config import SegmentConfig
from pipeline.driver.planning import Begun
from pipeline.driver.progress import Progress
from pipeline.driver.rounds import gives_up_after
from pipeline.errors import MaskfleetError
from pipeline.output.remaining import has_remaining, planned_sources, waves
from pipeline.output.reports import Events, PartReport
from pipeline.output.run_view import list_planned
from pipeline.output.span import Secrets, Span
from pipeline.plan.options import heartbeat_rows, idle_minutes, label_options, read_options
from pipeline.stopped import stop_if_asked
from pipeline.storage import Store
from pipeline.worker.cutting import in_order, limited
from pipeline.worker.span_worker import WorkerConfig

if TYPE_CHECKING:
    from pipeline.driver.fleet import Fleet


class Labelling:
    """The `rounds.Work` of one attempt. events: are told of every report. secrets: of presigned inputs. attempt: its id."""

    def __init__(
        self,
        config: SegmentConfig,
        store: Store,
        begun: Begun,
        secrets: Secrets,
        events: Events,
        progress: Progress,
        attempt: str,
    ) -> None:
        self.fatal: MaskfleetError | None = None
        self._config, self._store, self._begun, self._secrets = config, store, begun, secrets
        self._events, self._progress = events, progress
        # If another attempt wrote the plan and may be at work, begin at a random place; `--limit` means the first images.
        alone = begun.plan.added or config.limit is not None
        self._begin = 0.0 if alone else random.Random(attempt).random()  # noqa: S311 - not a secret

    def is_limited(self) -> bool:
        """Has `--limit` been reached?"""
        return self._config.limit is not None and self._progress.done >= self._config.limit

    def remains(self) -> bool:
        """Does anything remain to be labelled?"""
        return not self.is_limited() and has_remaining(self._begun.plan, self._begun.committed)

    @property
    def done(self) -> int:
        """How many parts were there at the last listing."""
        return self._begun.committed.part_count

    def send(self, fleet: "Fleet", *, patient: bool) -> str | None:
        """Send the remaining spans to the workers, as `rounds.Work.send` says."""
        from pipeline.driver import ray_data as flow

        config, begun = self._config, self._begun
        worker, reason = self._worker(patient=patient), None
        waiting = waves(
            begun.plan, begun.committed, part_images=config.part_images, workers=fleet.may_be(), begin=self._begin,
            secrets=self._secrets,
        )  # fmt: skip
        network = flow.share(begun.network)
        for spans in waiting:
            reports = flow.label(self._fitted(spans, fleet), worker, network, fleet)
            with gives_up_after(idle_minutes(config), self._progress), closing(reports):
                for report in reports:
                    stop_if_asked()
                    reason = self.take(report) or reason
                    if self.fatal is not None:
                        return reason
            if self.is_limited():
                break
        return reason

    def look_again(self) -> None:
        """List the committed parts."""
        self._begun.committed = list_planned(self._store, self._config.output, planned_sources(self._begun.plan))

    def take(self, report: PartReport) -> str | None:
        """Emit a report -> why its span remains, or None. If another try would meet the error again, it is fatal."""
        self._events.report(report)
        self.fatal = self.fatal or report.fatal
        return report.error

    def _worker(self, *, patient: bool) -> WorkerConfig:
        config, settings, network = self._config, self._begun.plan.settings, self._begun.network
        return WorkerConfig(
            output=config.output, fingerprint=settings["fingerprint"], part_images=config.part_images,
            plan_format=settings.get("format", 1), read=read_options(config), labels=label_options(config, network),
            patient=patient, image_timeout_s=config.image_timeout_s, heartbeat_rows=heartbeat_rows(network),
            engine=settings["labels"]["engine"], labels_version=settings["labels"]["labels_version"],
        )  # fmt: skip

    def _fitted(self, spans: list[Span], fleet: "Fleet") -> list[Span]:
        """Spans in the order in which workers get them, big shards marked to be cut, no more parts than `--limit` leaves."""
        config = self._config
        if config.limit is not None:
            return limited(spans, config.limit - self._progress.done, config.part_images, fleet.there())
        return in_order(spans, fleet.soon())

    def stalled(self) -> bool:
        """Has no part been committed for `--idle-minutes`?"""
        return time.monotonic() - self._progress.last_part > 60 * self._config.idle_minutes
