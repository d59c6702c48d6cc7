"""Flags over TOML over defaults; what is wrong is said in one line."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import SegmentConfig, Workers, load_config
from pipeline.errors import UsageError
from tests.conftest import ROOT

GIVEN: dict[str, Any] = {"input": ("in",), "output": "out"}


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('input = "elsewhere"\noutput = "out"\nshort-side = 100\npart_images = 7\n')
    config = load_config({"short_side": 200}, str(file))
    assert (config.input, config.short_side, config.part_images, config.max_pixels) == (("elsewhere",), 200, 7, 4_000_000)
    assert config.output == str(Path.cwd() / "out")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"input": ("in",)}, "--output is required"),
        (GIVEN | {"part_images": 0}, "--part-images"),
        (GIVEN | {"min_confidence": 1.5}, "--min-confidence"),
        (GIVEN | {"engine": "onnx"}, "--engine"),
        (GIVEN | {"workers": "0"}, "--workers: 0: a number N, or MIN:MAX, from 1 on"),
        (GIVEN | {"workers": "8:2"}, "--workers: 8:2: a number N"),
        (GIVEN | {"workers": "2:"}, "--workers: 2:: a number N"),
        (GIVEN | {"workers": "-3"}, "--workers: -3: a number N"),
        (GIVEN | {"workers": True}, "--workers: True: a number N"),
        (GIVEN | {"workers": 2.5}, "--workers: 2.5: a number N"),
        (GIVEN | {"output": "gs://bucket/x"}, "--output: outputs go to a local path or s3://, not to gs://"),
    ],
)
def test_wrong_values_name_their_flag(values: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_config(values)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("redo = 'CorruptImage'", "for one deliberate run"),
        ("relabel-changed = true", "for one deliberate run"),
        ("inptu = 'x'", "unknown setting inptu"),
        ("input = [", "Invalid value"),
        ("\x00", "config"),
        ("input = " + "[" * 100_000, "config"),
        ("#" * (2 << 20), "more than 1024 KiB"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UsageError, match=line):
        load_config(GIVEN, str(tmp_path / "c.toml"))


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_config(GIVEN, str(tmp_path / "c.toml"))


@pytest.mark.parametrize("name", ["quickstart", "nightly", "pseudo_labels"])
def test_the_examples_are_valid(name: str) -> None:
    assert load_config(GIVEN, str(ROOT / "jobs" / "configs" / f"{name}.toml"))


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        SegmentConfig(**GIVEN).limit = 3


@pytest.mark.parametrize(
    ("text", "workers"), [("4", Workers(4, 4)), (4, Workers(4, 4)), ("2:28", Workers(2, 28)), (" 1:1 ", Workers(1, 1))]
)
def test_workers_are_a_number_or_a_range(text: object, workers: Workers) -> None:
    config = load_config(GIVEN | {"workers": text})
    assert config.workers == workers
    assert SegmentConfig.model_validate_json(config.model_dump_json()) == config  # as a rehearsal is told
    assert load_config(GIVEN).workers is None


@pytest.mark.parametrize(("cores", "within"), [(1, 2), (2, 2), (5, 5), (40, 8)])
def test_a_range_of_workers_holds_what_there_is(cores: int, within: int) -> None:
    assert Workers(2, 8).within(cores) == within
