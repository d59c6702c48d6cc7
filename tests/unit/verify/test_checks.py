"""Whether a file of a run is whole: what `verify` does with it stands in `test_verify`."""

import pyarrow.parquet as pq
import pytest

from pipeline.verify.checks import open_file
from tests.support.memory import short_of_memory


def test_memory_that_runs_out_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pq, "ParquetFile", short_of_memory)
    with pytest.raises(MemoryError):
        open_file(b"PAR1" + bytes(100))
