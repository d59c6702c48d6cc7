"""The processor of this machine: its name, its vector instructions, and whether it has bf16."""

import functools
import platform
from pathlib import Path

from pipeline.errors import UsageError

PRECISIONS = ("fp32", "bf16")
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # as /proc/cpuinfo names bf16: x86, x86, ARM
_WIDEST = ("amx_tile", "avx512_bf16", "avx512f", "avx2")  # instructions that change how sums round


@functools.cache
def cpu_fields() -> dict[str, str]:
    """The first processor in /proc/cpuinfo: field -> text; empty if there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return fields_of(text)


def fields_of(cpuinfo: str) -> dict[str, str]:
    """The fields of the first processor in the text of /proc/cpuinfo."""
    lines = (line.partition(":") for line in cpuinfo.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def cpu_flags() -> frozenset[str]:
    """The instruction sets of this processor, as Linux names them."""
    return frozenset(cpu_fields().get("flags", cpu_fields().get("Features", "")).split())


def cpu_name() -> str:
    """The name of this processor from /proc/cpuinfo; if it has none, the architecture of the machine."""
    return cpu_fields().get("model name") or platform.machine()


def instruction_set() -> str:
    """The vector instructions that change how sums round, such as `avx512_bf16+avx512f+avx2`; if none, the architecture."""
    return "+".join(name for name in _WIDEST if name in cpu_flags()) or platform.machine()


def has_bf16() -> bool:
    """Does this processor have bf16 instructions? Without them bf16 is emulated, and slower than fp32."""
    return not cpu_flags().isdisjoint(_BF16)


def require_precision(precision: str) -> None:
    """Raise `UsageError` if this processor lacks the instructions; another precision is never taken instead."""
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: not one of {', '.join(PRECISIONS)}")
    if precision == "bf16" and not has_bf16():
        raise UsageError(
            f"--precision bf16: this CPU ({cpu_name()}) has no bf16 instructions; use fp32 or machines with avx512_bf16/amx_bf16"
        )
