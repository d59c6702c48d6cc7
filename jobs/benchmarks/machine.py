"""What a figure was measured on: a ratio travels, a time does not."""

import os
import platform
from importlib.metadata import version
from typing import Any

from pipeline.model.cpu import cpu_name, instruction_set


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
