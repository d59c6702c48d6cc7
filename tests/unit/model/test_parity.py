"""Labels against torchvision's own code, on photographs: real ones if ../shared is there, else the bundled ones.

The default model has the bundled weights; the others seeded random ones that label as variedly as trained ones
(`jobs.bench_models` says how and why).
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
import torch
from PIL import Image
from torchvision.models import get_model, mobilenet_v3_small
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import LRASPP
from torchvision.transforms._presets import SemanticSegmentation

from jobs import bench
from jobs.bench_models import CLASSES, Tensors, agreement, label_map, prepared, weights_of
from pipeline import Segmenter
from pipeline.errors import UsageError
from pipeline.image.decode import decode
from pipeline.image.resize import resize
from pipeline.labels.upsample import labels_of
from pipeline.model import openvino_engine
from pipeline.model.cpu import PRECISIONS, cpu_name, has_bf16
from pipeline.model.engine import Engine, Prepared
from pipeline.model.loading import load_engine
from pipeline.model.openvino_engine import compile_at
from pipeline.model.torch_engine import forward
from pipeline.model.zoo import DEFAULT_MODEL, build
from tests.conftest import SHARED

SHORT_SIDE = 520
NETWORKS = (DEFAULT_MODEL, "lraspp_mobilenet_v3_small", "deeplabv3_mobilenet_v3_large")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network on both engines, and its weights."""

    name: str
    tensors: Tensors
    torch: Engine
    openvino: Engine


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Landscape and portrait."""
    files = [file for name in ("voc_val", "coco_sub") for file in sorted((SHARED / "data" / name / "images").glob("*"))[:2]]
    encoded = [file.read_bytes() for file in files] or [data for _, data in bench.photographs()]
    return [decode(data, max_source_pixels=10**9).image for data in encoded]


@functools.cache
def tensors_of(name: str) -> Tensors:
    return weights_of(name)


@functools.cache
def ready(name: str, engine: str) -> Prepared:
    """Converted once."""
    return prepared(name, engine, tensors_of(name))


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Loaded:
    name = request.param
    return Loaded(name, tensors_of(name), load_engine(ready(name, "torch")), load_engine(ready(name, "openvino")))


def torchvision_model(name: str, tensors: Tensors) -> Any:
    """torchvision's model, put together here from its parts where it has no builder."""
    if name == "lraspp_mobilenet_v3_small":
        backbone = IntermediateLayerGetter(mobilenet_v3_small(dilated=True).features, {"2": "low", "12": "high"})
        model = LRASPP(backbone, low_channels=24, high_channels=576, num_classes=CLASSES)
    else:
        model = get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES)
    model.load_state_dict(tensors)
    return model.eval()


def test_the_torch_engine_is_torchvision_to_the_last_pixel(photographs: list[Image.Image], network: Loaded) -> None:
    model, transforms = torchvision_model(network.name, network.tensors), SemanticSegmentation(resize_size=SHORT_SIDE)
    classes: set[int] = set()
    for image in photographs[:2]:
        with torch.inference_mode():
            batch = transforms(image).unsqueeze(0)
            expected = model(batch)["out"][0].argmax(0).numpy()
        logits = network.torch.logits(resize(image, SHORT_SIDE, max_pixels=10**8))
        assert np.array_equal(labels_of(network.torch, logits, *batch.shape[2:]).mask, expected)
        classes.update(np.unique(expected).tolist())
    assert len(classes) > 1  # else equality says nothing


def test_openvino_agrees_with_torch_at_the_original_size(photographs: list[Image.Image], network: Loaded) -> None:
    assert agreement(network.openvino, network.torch, photographs[::2], SHORT_SIDE) >= 0.9995
    classes = {label for image in photographs[::2] for label in np.unique(label_map(network.torch, image, SHORT_SIDE)).tolist()}
    assert len(classes) > 1  # else equality says nothing


def test_openvinos_confidence_is_torchs(photographs: list[Image.Image], network: Loaded) -> None:
    small = resize(photographs[0], SHORT_SIDE, max_pixels=10**8)
    mine, theirs = (
        labels_of(engine, engine.logits(small), *photographs[0].size[::-1]).confidence.astype(int)
        for engine in (network.openvino, network.torch)
    )
    assert np.abs(mine - theirs).max() <= 2


def test_logits_are_a_copy_for_nobody(network: Loaded) -> None:
    """One request is reused; labels must be taken before the next call, and are."""
    first = np.asarray(Image.new("RGB", (64, 64), "red"))
    second = np.asarray(Image.new("RGB", (96, 64), "blue"))
    engine = network.openvino
    wanted = [labels_of(engine, engine.logits(array), 64, 64).mask for array in (first, second)]
    again = [labels_of(engine, engine.logits(array), 64, 64).mask for array in (second, first)][::-1]
    assert all(np.array_equal(one, other) for one, other in zip(wanted, again, strict=True))


def test_kernels_that_are_kept_or_made_anew_give_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes in turn, so that with room for few kernels each is made anew every time."""
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    shapes = [(64, 96), (96, 64), (80, 112), (128, 64)] * 2
    found: list[list[npt.NDArray[np.float32]]] = []
    for kept in (1, openvino_engine.KERNELS_KEPT):
        monkeypatch.setattr(openvino_engine, "KERNELS_KEPT", kept)
        engine = load_engine(ready(DEFAULT_MODEL, "openvino"))
        found.append([engine.logits(np.ascontiguousarray(pixels[:height, :width])).copy() for height, width in shapes])
    for few, many in zip(*found, strict=True):
        assert np.array_equal(few, many)


def test_bf16_in_torch_labels_nearly_as_float32() -> None:
    """Emulated where the CPU lacks it, so small images here; 99.8 % of the labels agree on the bundled ones at short side 288."""
    network = build(DEFAULT_MODEL, tensors_of(DEFAULT_MODEL))
    transforms = SemanticSegmentation(resize_size=128)
    equal = pixels = 0
    for _, data in bench.photographs()[:3]:
        with torch.inference_mode():
            x_NCHW = transforms(decode(data, max_source_pixels=10**9).image).unsqueeze(0)
            exact, near = (forward(network, x_NCHW, precision) for precision in ("fp32", "bf16"))
        assert near.dtype == torch.float32
        assert not torch.equal(exact, near)  # it is another arithmetic
        equal += int((exact.argmax(1) == near.argmax(1)).sum())
        pixels += exact[0, 0].numel()
    assert equal >= 0.97 * pixels, f"{100 * equal / pixels:.3f} %"


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bf16_labels_nearly_as_float32_where_the_cpu_has_it(engine: str, photographs: list[Image.Image]) -> None:
    if not has_bf16():
        pytest.skip(f"{cpu_name()} has no bf16 instructions")
    exact, near = (load_engine(replace(ready(DEFAULT_MODEL, engine), precision=precision)) for precision in PRECISIONS)
    assert agreement(near, exact, photographs, SHORT_SIDE) >= 0.99


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_engine_refuses_bf16_where_the_cpu_lacks_it(engine: str) -> None:
    if has_bf16():
        pytest.skip(f"{cpu_name()} has bf16 instructions")
    with pytest.raises(UsageError, match=r"--precision bf16: this CPU \(.+\) has no bf16 instructions; use fp32 or machines"):
        load_engine(replace(ready(DEFAULT_MODEL, engine), precision="bf16"))


def test_the_segmenter_refuses_it_too() -> None:
    if has_bf16():
        pytest.skip(f"{cpu_name()} has bf16 instructions")
    with pytest.raises(UsageError, match="--precision bf16"):
        Segmenter("bundled", precision="bf16")


def test_openvino_never_takes_another_precision_silently() -> None:
    """Asked for bf16 on a CPU without it, OpenVINO compiles float32 and says so only when it is asked."""
    core = ov.Core()
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip(f"OpenVINO has bf16 on {cpu_name()}")
    network = ready(DEFAULT_MODEL, "openvino")
    model = core.read_model(model=network.graph, weights=network.tensors)
    with pytest.raises(UsageError, match="OpenVINO has no bf16 on this CPU"):
        compile_at(core, model, "bf16")
    assert compile_at(core, model, "fp32").get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32


def test_label_maps_have_the_photographs_size(network: Loaded) -> None:
    image = Image.new("RGB", (90, 61), "green")
    for engine in (network.torch, network.openvino):
        assert label_map(engine, image, 64).shape == (61, 90)
