"""A run as its readers see it: thresholds, chosen when it is read."""

import math
from pathlib import Path

import numpy as np
import pytest

from pipeline import open_run
from pipeline.errors import Damaged, NewerFormat, UsageError
from pipeline.labels.png import decode_png
from tests.support.labelled import label
from tests.support.tars import photos, tar_bytes

THRESHOLDS = (0.0, 0.4, 0.5, 0.6, 2 / 3, 0.999, 1.0)


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in") / "a.tar"
    path.write_bytes(tar_bytes(photos(3)))
    return path


@pytest.fixture(scope="module")
def with_map(tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "map"
    label([tar], out, confidence_map=True)
    return out


def _masks(out: Path, min_confidence: float | None = None) -> list[np.ndarray]:
    return [np.asarray(mask) for _, mask in open_run(str(out)).pairs(min_confidence=min_confidence)]


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_threshold_keeps_what_the_contract_says(with_map: Path, threshold: float) -> None:
    rows = open_run(str(with_map)).masks.to_table().to_pylist()
    found = _masks(with_map, threshold)
    assert len(found) == len(rows) == 3
    for row, mask in zip(rows, found, strict=True):
        labels, confidence = decode_png(row["mask"]["bytes"]), decode_png(row["confidence"]["bytes"])
        assert np.array_equal(mask, np.where(confidence >= math.ceil(255 * threshold), labels, 255))
    ignored = sum(int((mask == 255).sum()) for mask in found)
    assert (ignored == 0) if threshold == 0 else (ignored > 0)


@pytest.mark.parametrize("threshold", [0.5, 0.6])
def test_a_threshold_chosen_later_gives_the_masks_that_were_made_with_it(
    tar: Path, with_map: Path, tmp_path: Path, threshold: float
) -> None:
    label([tar], tmp_path / "final", min_confidence=threshold)
    final, chosen = _masks(tmp_path / "final"), _masks(with_map, threshold)
    assert any((mask == 255).any() for mask in final)
    for one, other in zip(final, chosen, strict=True):
        assert np.array_equal(one, other)


def test_none_is_the_stored_mask_in_the_colours_of_voc(with_map: Path) -> None:
    (_, mask), *_ = open_run(str(with_map)).pairs()
    (_, strict), *_ = open_run(str(with_map)).pairs(min_confidence=0.5)
    assert mask.mode == strict.mode == "P"
    assert mask.getpalette() == strict.getpalette()
    assert mask.size == strict.size


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_no_threshold(with_map: Path, threshold: float) -> None:
    with pytest.raises(UsageError, match="not between 0 and 1"):
        open_run(str(with_map)).pairs(min_confidence=threshold)


def test_a_run_without_confidence_says_so_before_it_is_read(tar: Path, tmp_path: Path) -> None:
    label([tar], tmp_path / "out")
    with pytest.raises(UsageError, match="--confidence-map"):
        open_run(str(tmp_path / "out")).pairs(min_confidence=0.0)


def test_masks_of_an_older_version_with_both_can_only_become_stricter(tar: Path, tmp_path: Path, with_map: Path) -> None:
    label([tar], tmp_path / "both", confidence_map=True, min_confidence=0.5)
    for one, other in zip(_masks(tmp_path / "both", 0.6), _masks(with_map, 0.6), strict=True):
        assert np.array_equal(one, other)
    with pytest.raises(UsageError, match=r"was labelled with --min-confidence 0\.5"):
        open_run(str(tmp_path / "both")).pairs(min_confidence=0.4)


@pytest.mark.parametrize("text", ['{"format": 2, "counts":', "[]", "\x80"])
def test_half_a_run_json_is_damage_and_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, "latin-1")
    with pytest.raises(Damaged, match="verify --repair makes it again"):
        open_run(str(tmp_path))


def test_a_run_of_a_newer_version_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 99}')
    with pytest.raises(NewerFormat):
        open_run(str(tmp_path))
