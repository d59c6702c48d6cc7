"""What a worker had in hand survives its kill -9, and only that."""

import errno
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.quarantine.journal import DECODING, LABELLING, UNPACKING, Held, InFlight, left_behind

NOTHING = Held(frozenset(), None)
_DIES = """
import os, signal, sys
from pathlib import Path
from pipeline.quarantine.journal import DECODING, LABELLING, UNPACKING, InFlight
mine = InFlight(Path(sys.argv[1]), "source")
with mine.hold(DECODING, 6):
    pass
with mine.hold(DECODING, 7), mine.hold(LABELLING, 3), mine.hold(UNPACKING, 8):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_in_hand_at_the_kill_is_left_behind(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _DIES, str(tmp_path)], check=False)
    ((path, held),) = left_behind(tmp_path, "source")
    assert held == Held(frozenset({3, 7}), 8)
    assert held.positions == {3, 7, 8}
    assert list(left_behind(tmp_path, "other")) == []
    path.unlink()


def test_who_lives_has_left_nothing(tmp_path: Path) -> None:
    mine = InFlight(tmp_path, "source")
    with mine.hold(DECODING, 1), mine.hold(LABELLING, 0):
        assert list(left_behind(tmp_path, "source")) == []
    mine.close()
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_fails_is_let_go(tmp_path: Path) -> None:
    mine = InFlight(tmp_path, "source")
    with pytest.raises(ValueError, match="bad"), mine.hold(LABELLING, 4):
        raise ValueError("bad")
    mine._file.close()  # as a death does: the lock goes
    mine._map.close()
    ((_, held),) = left_behind(tmp_path, "source")
    assert held == NOTHING


def test_what_ran_out_of_memory_is_left_behind(tmp_path: Path) -> None:
    """Its worker goes on with other spans; the next that comes here is to know."""
    mine = InFlight(tmp_path, "source")
    with pytest.raises(MemoryError), mine.hold(UNPACKING, 5):
        raise MemoryError
    with mine.hold(DECODING, 4):
        pass
    mine.close()
    ((_, held),) = left_behind(tmp_path, "source")
    assert held == Held(frozenset(), 5)


def test_what_was_settled_after_memory_ran_out_is_not_left_behind(tmp_path: Path) -> None:
    mine = InFlight(tmp_path, "source")
    with pytest.raises(MemoryError), mine.hold(DECODING, 5):
        raise MemoryError
    with mine.hold(DECODING, 6):
        pass
    mine.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file an attempt would fill it further."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mmap, "mmap", full)
    with pytest.raises(OSError, match="No space"):
        InFlight(tmp_path, "source")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_cut_short_names_nothing(tmp_path: Path) -> None:
    for length in (0, 2, 16):  # 16 of a version that knew two slots
        (tmp_path / "source-x.images").write_bytes(bytes(length))
        ((_, held),) = left_behind(tmp_path, "source")
        assert held == NOTHING
