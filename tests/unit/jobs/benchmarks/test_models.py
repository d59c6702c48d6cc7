"""`bench models`, small: what it measures is sane, and its plot and JSON are there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from jobs.benchmarks.models import main
from jobs.benchmarks.networks import prepared, torch_as_written, weights_of
from jobs.benchmarks.photographs import photographs
from jobs.benchmarks.truth import confusion, mean_iou, pixel_accuracy, truth_of
from pipeline.image.decode import decode
from pipeline.image.resize import resize
from pipeline.labels.upsample import labels_of
from pipeline.model.loading import load_engine
from pipeline.model.zoo import DEFAULT_MODEL

SMALL = "lraspp_mobilenet_v3_small"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, Any]]:
    """A run of two networks at 64 pixels, with made-up ground truth: the folder, what was printed, the JSON."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "photos").mkdir()
    (folder / "masks").mkdir()
    noise = np.random.default_rng(4).integers(0, 256, (2, 48, 64, 3), np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).resize((128, 96)).save(folder / "photos" / f"{number}.jpg")
    Image.new("L", (128, 96), 0).save(folder / "masks" / "0.png")  # all background; the other has no mask
    arguments = f"--model {SMALL} --photos {folder / 'photos'} --truth {folder} --short-side 64 --rounds 2 --stretch-s 0.02"
    done = CliRunner().invoke(main, [*arguments.split(), "--out", str(folder / "out")])
    assert done.exit_code == 0, done.output
    return folder / "out", done.output, json.loads((folder / "out" / "models.json").read_text())


def test_it_measures_the_network_asked_for_beside_the_default(made: tuple[Path, str, dict[str, Any]]) -> None:
    _, _, found = made
    assert list(found["networks"]) == [DEFAULT_MODEL, SMALL]
    assert found["size"] == [85, 64]
    large, small = found["networks"].values()
    assert (large["parameters"], small["parameters"]) == (3_221_538, 1_077_954)
    assert 0.2 < small["multiply_adds"] / large["multiply_adds"] < 0.5
    assert large["published"]["cpu_seconds"] == 0.3278
    assert small["published"] is None
    for network in (large, small):
        ways = {"torch fp32 contiguous", "torch fp32 channels_last", "openvino fp32"}
        assert ways | {f"{name} labels" for name in ways} <= network["ways"].keys()
        for way in network["ways"].values():
            assert way["images_per_s"] > 1
            assert len(way["seconds_an_image"]) == found["rounds"] == 2
            assert way["batch"] in (1, 4, 16)
        assert network["agreement"]["fp32"]["percent"] > 99
    assert all(way["times_default_model"]["median"] == 1 for way in large["ways"].values())
    for until in ("", " labels"):  # the network alone, and to label maps: like is compared with like
        eager, fast = (small["ways"][name + until]["seconds_an_image"] for name in ("torch fp32 contiguous", "openvino fp32"))
        ratio = small["faster_than_eager"]["openvino fp32" + until]
        assert ratio["median"] == pytest.approx(np.median(np.divide(eager, fast)))
        assert ratio["low"] <= ratio["median"] <= ratio["high"]


def test_torch_as_written_finds_the_labels_that_the_engines_find() -> None:
    image = decode(photographs()[0], max_source_pixels=1 << 30).image
    pixels_HWC = resize(image, 128, max_pixels=1 << 30)
    tensors = weights_of(SMALL)
    written = torch_as_written(SMALL, tensors, pixels_HWC, channels_last=True)(2).numpy()
    reference = load_engine(prepared(SMALL, "torch", tensors))
    found = labels_of(reference, reference.logits(pixels_HWC), *pixels_HWC.shape[:2]).mask
    assert written.shape == (2, *pixels_HWC.shape[:2])
    assert len(np.unique(found)) > 1
    assert (written == found).mean() > 0.9999


def test_it_judges_the_default_model_by_the_masks_there_are(made: tuple[Path, str, dict[str, Any]]) -> None:
    _, _, found = made
    for name in ("torch fp32", "openvino fp32"):
        judged = found["truth"][name]
        assert judged["images"] == 1
        assert judged["miou"] == pytest.approx(judged["pixel_accuracy"])  # only background is there to be found
        assert 0 <= judged["miou"] <= 100


def test_it_prints_the_table_and_draws_the_plot(made: tuple[Path, str, dict[str, Any]]) -> None:
    out, printed, _ = made
    assert (out / "models.md").read_text() in printed
    assert f"| {SMALL} " in printed
    assert "round 2 of 2" in printed
    plot = (out / "models-speed.svg").read_text()
    assert DEFAULT_MODEL in plot
    assert SMALL not in plot  # nothing is published of it


def test_masks_that_fit_no_photograph(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--truth", str(tmp_path), "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "--truth: no masks/<stem>.png for any photograph" in done.output


def test_confusion_and_what_follows(tmp_path: Path) -> None:
    truth = np.array([[0, 0, 1, 255], [1, 1, 2, 255]], np.uint8)
    found = np.array([[0, 1, 1, 0], [1, 1, 0, 2]], np.uint8)
    pixels = confusion(truth, found, 4)
    assert pixels.tolist() == [[1, 1, 0, 0], [0, 3, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert mean_iou(pixels) == pytest.approx((1 / 3 + 3 / 4 + 0) / 3)
    assert pixel_accuracy(pixels) == pytest.approx(4 / 6)
    (tmp_path / "masks").mkdir()
    Image.fromarray(truth).save(tmp_path / "masks" / "a.png")
    mask = truth_of("a", [str(tmp_path / "absent"), str(tmp_path)])
    assert mask is not None
    assert (mask == truth).all()
    assert truth_of("b", [str(tmp_path)]) is None
