"""What an attempt says of itself as events come in."""

import time

import pytest

from pipeline.driver.progress import Progress
from pipeline.output.reports import Events, PartReport, WorkerRetired
from tests.support.made_up import made_up_footer

FOOTER = made_up_footer(0, error="CorruptImage")


@pytest.mark.parametrize(
    ("report", "counts"),
    [
        (PartReport(in_hand=128), True),
        (PartReport(part=FOOTER.name), True),  # another attempt made it: this one goes on behind it
        (PartReport(error="no answer", error_class="StorageError"), False),
    ],
)
def test_whoever_reports_images_keeps_the_clock_going(report: PartReport, counts: bool) -> None:
    """A part may take longer than `--idle-minutes`; a worker that only fails does not get on."""
    long_ago = time.monotonic() - 3600
    progress = Progress(last_sign=long_ago, last_part=long_ago, phase="starting workers")
    progress.hear(report)
    assert (progress.last_sign > long_ago + 1) is counts
    assert progress.last_part == long_ago
    assert progress.phase == ("labelling the first parts" if counts else "starting workers")


def test_committed_parts_are_counted_with_their_failures_by_class() -> None:
    progress, events = Progress(skipped=10), Events()
    events.listen(progress.hear)
    report = PartReport(
        part=FOOTER.name, footer=FOOTER, committed=True, bytes=4000, inferred=4, seconds=2.0, retries={"503": 2},
        milliseconds={"network": 12.4},
    )  # fmt: skip
    events.report(report)
    events.emit(WorkerRetired("node", "no bf16 there"))
    images = FOOTER.masks + 1
    assert (progress.images, progress.failures, dict(progress.errors)) == (images, 1, {"CorruptImage": 1})
    assert (progress.parts, progress.read_bytes, progress.inferred, progress.done) == (1, 4000, 4, 10 + images)
    assert (dict(progress.retries), dict(progress.milliseconds), progress.retired) == ({"503": 2}, {"network": 12}, 1)
    assert progress.phase == "labelling"
    assert progress.images_per_s == pytest.approx(images / 2, rel=0.05)
