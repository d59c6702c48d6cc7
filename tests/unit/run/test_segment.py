"""What an attempt makes of receipts, without Ray."""

import time
from pathlib import Path

import pytest

from pipeline.config import SegmentConfig
from pipeline.run.progress import Progress
from pipeline.run.segment import Attempt
from pipeline.run.span import Receipt


@pytest.mark.parametrize(
    ("receipt", "counts"),
    [
        (Receipt(in_hand=128), True),
        (Receipt(part="a", rows=4), True),  # another attempt made it: this one goes on behind it
        (Receipt(error="no answer", error_class="StorageError"), False),
    ],
)
def test_whoever_reports_images_keeps_the_clock_going(tmp_path: Path, receipt: Receipt, counts: bool) -> None:
    """A part may take longer than `--idle-minutes`; a worker that only fails does not get on."""
    long_ago = time.monotonic() - 3600
    progress = Progress(last_sign=long_ago, last_part=long_ago, phase="starting workers")
    attempt = Attempt(SegmentConfig(input=("x",), output=str(tmp_path / "out")), progress)
    attempt._refreshed = time.monotonic()
    attempt._take(receipt)
    assert (progress.last_sign > long_ago + 1) is counts
    assert progress.last_part == long_ago
    assert progress.phase == ("labelling the first parts" if counts else "starting workers")
