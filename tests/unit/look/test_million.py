"""A million rows: `look` keeps its memory, and shows twelve of them."""

import json
import os
import sys
from pathlib import Path

import pytest

from pipeline.output.parts import part_key
from tests.support.corpus import photos, tar_bytes
from tests.support.labelled import change_run, label, parts_of

ROWS = 256  # of a part


def _peak_mib(out: Path, where: str, folder: Path) -> int:
    """Peak memory of a job in a process of its own, which shows twelve rows."""
    arguments = ["-m", "jobs.look", str(out), "--where", where, "--to", str(folder / "x.jpg"), "--json", str(folder / "x.json")]
    pid = os.posix_spawn(sys.executable, [sys.executable, *arguments], os.environ)
    _, status, used = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(json.loads((folder / "x.json").read_text())["shown"]) == 12
    return used.ru_maxrss >> 10


@pytest.mark.slow
@pytest.mark.parametrize("where", ["random", "least-confident"])
def test_memory_does_not_grow_with_the_run(tmp_path: Path, where: str) -> None:
    """40 parts, and 4,000: copies of one, which differ in nothing that `look` reads."""
    (tmp_path / "a.tar").write_bytes(tar_bytes(photos(ROWS + 1)))
    label([tmp_path / "a.tar"], tmp_path / "out", part_images=ROWS)
    change_run(tmp_path / "out", lambda run: run.update(input=[str(tmp_path / "a.tar")]))
    first = parts_of(tmp_path / "out", "a.tar")[0]
    data, source = first.file.read_bytes(), first.file.name[:24]
    peaks = []
    for parts in (40, 4000):
        for number in range(1, parts):
            (tmp_path / "out" / "masks" / part_key(source, number * ROWS, ROWS)).write_bytes(data)
        peaks.append(_peak_mib(tmp_path / "out", where, tmp_path))
    assert peaks[1] < peaks[0] + 64, f"MiB: {peaks}"
