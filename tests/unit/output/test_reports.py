"""Reports survive their way through Ray, and say what happened to whoever listens."""

import pytest

from pipeline.errors import Bug, Damaged, UsageError
from pipeline.output.reports import Event, Events, ImageFailed, PartCommitted, PartReport, Retried
from tests.support.made_up import made_up_footer

FOOTER = made_up_footer(3, error="CorruptImage")
COMMITTED = PartReport(
    part=FOOTER.name, footer=FOOTER, committed=True, bytes=9, retries={"503": 2}, milliseconds={"network": 1.5}
)


@pytest.mark.parametrize(
    "report",
    [
        COMMITTED,
        PartReport(in_hand=128),
        PartReport(error="no answer", error_class="StorageError"),
        PartReport(result={"a": [1]}),
    ],
)
def test_a_report_is_the_same_at_the_other_end(report: PartReport) -> None:
    found = PartReport.from_json(report.to_json())
    assert found.to_json() == report.to_json()
    assert (found.part, found.rows, found.error, found.result) == (report.part, report.rows, report.error, report.result)
    if report.footer is not None:
        assert found.footer is not None
        assert found.footer.to_json() == report.footer.to_json()


def test_listeners_hear_the_report_and_what_it_says_in_their_order() -> None:
    events, heard = Events(), list[tuple[str, Event]]()
    events.listen(lambda event: heard.append(("first", event)))
    events.listen(lambda event: heard.append(("second", event)))
    events.report(COMMITTED)
    expected: list[Event] = [
        Retried("503", 2), PartCommitted(FOOTER.name, FOOTER, COMMITTED), ImageFailed(FOOTER.failures[0]), COMMITTED,
    ]  # fmt: skip
    assert heard == [(who, event) for event in expected for who in ("first", "second")]


def test_a_part_that_was_there_is_no_commit() -> None:
    events, heard = Events(), list[Event]()
    events.listen(heard.append)
    there = PartReport(part=FOOTER.name)
    events.report(there)
    assert heard == [there]


@pytest.mark.parametrize("kind", [Bug, UsageError, Damaged])
def test_errors_that_another_try_would_meet_again_are_fatal(kind: type[Exception]) -> None:
    fatal = PartReport(error="so", error_class=kind.__name__).fatal
    assert (type(fatal), str(fatal)) == (kind, "so")
    assert PartReport(error="so", error_class="StorageError").fatal is None
