"""The folders in which converted networks and machine code are kept between runs."""

import os
import tempfile
from pathlib import Path

from pipeline.errors import NotReachable


def scratch_folder() -> Path:
    """A folder of this node and user, for files that need not survive a reboot."""
    return _own_temporary()


def cache_folder() -> Path:
    """`maskfleet` in the user's cache folder, or a temporary folder if this user cannot write there."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskfleet"
    try:
        base.mkdir(parents=True, exist_ok=True)
        if os.access(base, os.W_OK):
            return base
    except OSError:
        pass
    return _own_temporary()


def _own_temporary() -> Path:
    folder = Path(tempfile.gettempdir()) / f"maskfleet-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise NotReachable(f"{folder} cannot be made ({error.strerror}): set TMPDIR") from error
    if folder.stat().st_uid != os.getuid():
        raise NotReachable(f"{folder} belongs to somebody else: set TMPDIR")
    return folder
