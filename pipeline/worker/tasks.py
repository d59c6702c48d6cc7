"""The tasks of a worker pool: label spans, or call a function with parts."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Incomplete, MaskfleetError
from pipeline.model.engine import Prepared
from pipeline.output.parts import PartName
from pipeline.output.reports import PartReport
from pipeline.output.span import Span
from pipeline.worker.span_worker import PAUSE_S, SegmentSpan, WorkerConfig, ended_by


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """Label spans, part by part."""

    config: WorkerConfig

    def begin(self, network: Prepared | None) -> Callable[[str], Iterator[PartReport]]:
        """Load the network -> a function that makes the reports of a span. Raises like `SegmentSpan`."""
        assert network is not None
        segment = SegmentSpan(self.config, network)
        return lambda text: segment(Span.from_json(text))


@dataclass(frozen=True, slots=True)
class MapTask:
    """Call `function` with each part. Its result must be a value that JSON can hold."""

    function: Callable[[PartName], Any]

    def begin(self, _network: Prepared | None) -> Callable[[str], Iterator[PartReport]]:
        """-> a function that makes the one report of a part."""
        return self._reports

    def _reports(self, text: str) -> Iterator[PartReport]:
        part = PartName(**json.loads(text))
        try:
            result = self.function(part)
            json.dumps(result)  # raises here if JSON cannot hold the result: this is an error of the function
        except MaskfleetError as error:
            report = PartReport(error=str(error), error_class=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - one part must not end the others; the driver raises the error
            report = ended_by(error)
        else:
            report = PartReport(part=part, result=result)
        if report.error_class == Incomplete.__name__:
            time.sleep(PAUSE_S)
        yield report
