"""What a figure was measured on: a ratio travels, a time does not."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.model.openvino_engine import instruction_set


def machine() -> dict[str, Any]:
    """Processor, instructions, cores, load and versions, for a report."""
    return {
        "cpu": cpu_name(),
        "instruction_set": instruction_set(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ray", "openvino", "torch", "pillow", "pyarrow")},
    }


def machine_line(found: dict[str, Any]) -> str:
    """The same on one line."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"{found['cpu']} ({found['instruction_set']}), {found['cores']} cores; Python {found['python']}, {versions}"


def cpu_name() -> str:
    """What /proc says of this processor; the machine's architecture where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
