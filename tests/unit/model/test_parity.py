"""Labels against torchvision's own code, on real photographs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from torchvision.transforms._presets import SemanticSegmentation

from pipeline.decode import decode
from pipeline.model.engine import Engine
from pipeline.model.loading import load_engine
from pipeline.model.prepare import NetworkRequest, prepare
from pipeline.model.preprocess import resize
from tests.conftest import ROOT

MODEL = "lraspp_mobilenet_v3_large"
SHORT_SIDE = 520


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[bytes]:
    """Some of both sets, landscape and portrait."""
    folder = shared / "data"
    files = sorted((folder / "voc_val" / "images").iterdir())[:3] + sorted((folder / "coco_sub" / "images").iterdir())[:3]
    return [file.read_bytes() for file in files]


@pytest.fixture(scope="module")
def torchvision_model() -> torch.nn.Module:
    """torchvision's model with the bundled weights."""
    model: torch.nn.Module = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21)
    tensors = load_file(ROOT / "pipeline" / "model" / "bundled.safetensors")
    model.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in tensors.items()})
    model.eval()
    return model


def _engine(name: str) -> Engine:
    return load_engine(prepare(NetworkRequest(model=MODEL, weights="bundled", engine=name, short_side=SHORT_SIDE)))


@pytest.fixture(scope="module")
def reference() -> Engine:
    return _engine("torch")


def test_the_torch_engine_is_torchvision_to_the_last_pixel(
    photographs: list[bytes], torchvision_model: torch.nn.Module, reference: Engine
) -> None:
    transforms = SemanticSegmentation(resize_size=SHORT_SIDE)
    for data in photographs:
        image = decode(data, max_source_pixels=10**9).image
        with torch.inference_mode():
            batch = transforms(image).unsqueeze(0)
            expected = torchvision_model(batch)["out"][0].argmax(0).numpy()
        label_map, _ = reference.labels(reference.logits(resize(image, SHORT_SIDE, max_pixels=10**8)), *batch.shape[2:])
        assert np.array_equal(label_map, expected)


def test_openvino_agrees_with_torch_at_the_original_size(photographs: list[bytes], reference: Engine) -> None:
    engine = _engine("openvino")
    equal = pixels = 0
    for data in photographs:
        image = decode(data, max_source_pixels=10**9).image
        small = resize(image, SHORT_SIDE, max_pixels=10**8)
        mine = engine.labels(engine.logits(small), image.height, image.width)
        theirs = reference.labels(reference.logits(small), image.height, image.width)
        equal += int((mine[0] == theirs[0]).sum())
        pixels += mine[0].size
        assert np.abs(mine[1].astype(int) - theirs[1].astype(int)).max() <= 2
    assert equal >= 0.9995 * pixels


def test_logits_are_a_copy_for_nobody(reference: Engine) -> None:
    """One request is reused; labels must be taken before the next call, and are."""
    engine = _engine("openvino")
    first = np.asarray(Image.new("RGB", (64, 64), "red"))
    second = np.asarray(Image.new("RGB", (96, 64), "blue"))
    wanted = [engine.labels(engine.logits(array), 64, 64)[0] for array in (first, second)]
    again = [engine.labels(engine.logits(array), 64, 64)[0] for array in (second, first)][::-1]
    assert all(np.array_equal(one, other) for one, other in zip(wanted, again, strict=True))
