"""Against the plain definition in numpy, on random label maps and thresholds."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labels.statistics import IGNORE, mask_statistics, min_confidence_level

CLASSES = 4


def _random(seed: int, height: int, width: int, classes: int = CLASSES) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (height // 3 + 1, width // 3 + 1), dtype=np.uint8)
    label_map = np.ascontiguousarray(coarse.repeat(3, 0).repeat(3, 1)[:height, :width])
    return label_map, rng.integers(0, 256, (height, width), dtype=np.uint8)


@given(seed=st.integers(0, 1 << 30), height=st.integers(1, 30), width=st.integers(1, 30), threshold=st.floats(0, 1))
def test_as_defined(seed: int, height: int, width: int, threshold: float) -> None:
    label_map, confidence = _random(seed, height, width)
    statistics = mask_statistics(label_map, confidence, CLASSES, threshold)
    kept = confidence >= math.ceil(255 * threshold)
    assert (statistics.mask == np.where(kept, label_map, IGNORE)).all()
    for label in range(CLASSES):
        mine = label_map == label
        assert (statistics.histogram[label] == np.bincount(confidence[mine], minlength=256)).all()
        stored = mine & kept
        assert statistics.pixels[label] == stored.sum()
        assert statistics.confidence_sums[label] == confidence[stored].astype(np.int64).sum()
        ys, xs = np.nonzero(stored)
        box = [0, 0, 0, 0] if not len(xs) else [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
        assert statistics.boxes[label].tolist() == box
    assert statistics.mean_confidence == pytest.approx(float((confidence / 255).mean()), abs=1e-12)
    assert statistics.ignored_fraction == pytest.approx(float((statistics.mask == IGNORE).mean()), abs=1e-12)


def test_types_and_shapes() -> None:
    statistics = mask_statistics(*_random(1, 7, 9), CLASSES, 0.5)
    assert statistics.mask.dtype == np.uint8
    assert (str(statistics.histogram.dtype), statistics.histogram.shape) == ("int64", (CLASSES, 256))
    assert (str(statistics.pixels.dtype), statistics.pixels.shape) == ("int64", (CLASSES,))
    assert (str(statistics.confidence_sums.dtype), statistics.confidence_sums.shape) == ("int64", (CLASSES,))
    assert (str(statistics.boxes.dtype), statistics.boxes.shape) == ("int32", (CLASSES, 4))


def test_the_label_map_is_left_alone() -> None:
    label_map, confidence = _random(2, 10, 10)
    before = label_map.copy()
    mask_statistics(label_map, confidence, CLASSES, 0.9)
    assert (label_map == before).all()


def test_thresholds_zero_and_one() -> None:
    label_map, confidence = _random(3, 20, 20)
    assert (mask_statistics(label_map, confidence, CLASSES, 0.0).mask == label_map).all()
    certain = mask_statistics(label_map, confidence, CLASSES, 1.0)
    assert certain.pixels.sum() == (confidence == 255).sum()
    assert not mask_statistics(label_map, np.zeros_like(confidence), CLASSES, 1.0).pixels.any()


@pytest.mark.parametrize(
    ("threshold", "min_level"), [(0, 0), (0.001, 1), (0.2, 51), (0.5, 128), (0.6, 153), (0.7, 179), (0.8, 204), (1, 255)]
)
def test_least_confidence(threshold: float, min_level: int) -> None:
    assert min_confidence_level(threshold) == min_level


def test_decimal_thresholds_are_taken_at_their_word() -> None:
    """`ceil(255 * T)` in floats could be one too much where 255 * T is whole."""
    for thousandths in range(1001):
        assert min_confidence_level(thousandths / 1000) == math.ceil(Fraction(255 * thousandths, 1000))


def test_all_255_classes() -> None:
    label_map = np.arange(255, dtype=np.uint8).reshape(15, 17)
    statistics = mask_statistics(label_map, np.full_like(label_map, 200), 255, 0.0)
    assert (statistics.pixels == 1).all()
    assert (statistics.boxes[:, 2:] == 1).all()


def test_histograms_add_up_across_images() -> None:
    """What is merged over a run is the same as one image of all pixels."""
    top, bottom = _random(5, 6, 12), _random(6, 9, 12)
    whole = (np.vstack([top[0], bottom[0]]), np.vstack([top[1], bottom[1]]))
    parts = [mask_statistics(*pair, CLASSES, 0.3) for pair in (top, bottom)]
    one = mask_statistics(*whole, CLASSES, 0.3)
    assert (parts[0].histogram + parts[1].histogram == one.histogram).all()
    assert (parts[0].pixels + parts[1].pixels == one.pixels).all()
    assert (parts[0].confidence_sums + parts[1].confidence_sums == one.confidence_sums).all()
