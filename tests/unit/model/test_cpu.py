"""What the processor says of itself."""

import platform
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.model.cpu import PRECISIONS, cpu_flags, cpu_name, fields_of, has_bf16, instruction_set, require_precision

X86 = (
    "processor\t: 0\nmodel name\t: Xeon(R) : Platinum\nflags\t\t: fpu avx2 avx512f avx512_bf16\n\nprocessor\t: 1\nflags\t: sse\n"
)
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd i8mm bf16\nCPU part\t: 0xd40\n"


def test_proc_cpuinfo_of_both_kinds() -> None:
    assert fields_of(X86)["model name"] == "Xeon(R) : Platinum"
    assert "avx512_bf16" in fields_of(X86)["flags"].split()
    assert "bf16" in fields_of(ARM)["Features"].split()


def test_this_machine() -> None:
    text = Path("/proc/cpuinfo").read_text()
    assert cpu_name() == platform.machine() or cpu_name() in text
    assert all(flag in text for flag in cpu_flags())
    assert "avx2" not in cpu_flags() or "avx2" in instruction_set().split("+")


@pytest.mark.parametrize(
    ("flags", "able"),
    [({"avx2", "avx512f"}, False), ({"avx512_bf16"}, True), ({"amx_bf16"}, True), ({"bf16"}, True), (set(), False)],
)
def test_bf16_is_what_the_flags_say(flags: set[str], able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.model.cpu.cpu_flags", lambda: frozenset(flags))
    assert has_bf16() is able
    require_precision("fp32")
    if able:
        require_precision("bf16")
    else:
        with pytest.raises(UsageError, match=r"has no bf16 instructions; use fp32 or machines with avx512_bf16/amx_bf16$"):
            require_precision("bf16")


def test_an_unknown_precision() -> None:
    with pytest.raises(UsageError, match="--precision int8: not one of fp32, bf16"):
        require_precision("int8")


def test_the_flag_offers_what_the_engines_know() -> None:
    from typing import get_args

    from pipeline.config import Precision

    assert get_args(Precision) == PRECISIONS
