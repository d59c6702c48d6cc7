"""The one large tar: as large as asked for, and readable."""

import tarfile
from pathlib import Path

from jobs.benchmarks.one_tar import write_tar


def test_a_tar_is_as_large_as_asked_for(tmp_path: Path) -> None:
    size = write_tar(tmp_path / "one.tar", [b"a" * 3000, b"b" * 700], 100_000)
    assert size == (tmp_path / "one.tar").stat().st_size
    assert 100_000 <= size < 115_000
    with tarfile.open(tmp_path / "one.tar") as tar:
        members = tar.getmembers()
        assert [member.size for member in members[:3]] == [3000, 700, 3000]
        assert len({member.name for member in members}) == len(members)
