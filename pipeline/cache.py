"""Where converted networks and machine code are kept between runs."""

import os
import tempfile
from pathlib import Path

from pipeline.errors import NotReachable


def cache_folder() -> Path:
    """`maskfleet` in the user's cache folder, or in a temporary one where that cannot be written."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskfleet"
    try:
        base.mkdir(parents=True, exist_ok=True)
        if os.access(base, os.W_OK):
            return base
    except OSError:
        pass
    fallback = Path(tempfile.gettempdir()) / f"maskfleet-{os.getuid()}"
    fallback.mkdir(mode=0o700, exist_ok=True)
    if fallback.stat().st_uid != os.getuid():
        raise NotReachable(f"no cache folder can be written: neither {base} nor {fallback}; set XDG_CACHE_HOME")
    return fallback
