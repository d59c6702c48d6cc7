"""Measures the networks of the zoo on one core: speed, and how many labels equal torch's. No weights are downloaded."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from jobs.bench import photographs
from pipeline.image.decode import decode
from pipeline.image.resize import resize
from pipeline.labels.upsample import labels_of
from pipeline.model.cpu import PRECISIONS, has_bf16
from pipeline.model.engine import Engine, Prepared
from pipeline.model.loading import load_engine
from pipeline.model.prepare import write_network
from pipeline.model.weights import BUNDLED, TORCHVISION_PRESET, load_weights, state_dict
from pipeline.model.zoo import DEFAULT_MODEL, ZOO, architecture, count_classes

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]

CLASSES = 21  # those of PASCAL VOC, as in torchvision's weights
COLUMNS = (
    "network", "M parameters", "torch fp32", "OpenVINO fp32", "OpenVINO bf16", "labels equal to torch's",
    "published CPU s per image", "published mIoU, pixel accuracy",
)  # fmt: skip
_SEED = 7
_CALIBRATION_SIDE = 96  # pixels
_LOGIT_STD = 4.0  # about that of a trained network
_STRETCH_S = 1.0  # one measurement takes at least so long
_HEAVY_S = 1.0  # seconds per image; above this, labels are compared on one photograph only


@dataclass(frozen=True, slots=True)
class Published:
    """CPU seconds per image, mIoU and pixel accuracy (%, on COCO val2017), from torchvision's pull requests and documentation."""

    cpu_seconds: float
    miou: float
    pixel_accuracy: float


PUBLISHED = {
    "lraspp_mobilenet_v3_large": Published(0.3278, 57.9, 91.2),
    "deeplabv3_mobilenet_v3_large": Published(0.5869, 60.3, 91.2),
    "fcn_mobilenet_v3_large": Published(0.3702, 57.8, 90.9),
    "deeplabv3_resnet50": Published(6.3531, 66.4, 92.4),
    "fcn_resnet50": Published(5.0146, 60.5, 91.4),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One network. seconds: per image, by engine and precision, one figure per round. equal: as `agreement`, OpenVINO fp32."""

    name: str
    parameters: int
    seconds: dict[str, list[float]]
    equal: float

    def row(self) -> list[str]:
        """The cells of `COLUMNS`."""
        speeds = [f"{1 / median(self.seconds[way]):.3g}" if way in self.seconds else "no bf16 here" for way in _WAYS]
        known = PUBLISHED.get(self.name)
        published = (f"{known.cpu_seconds}", f"{known.miou}, {known.pixel_accuracy}") if known else ("-", "-")
        return [self.name, f"{self.parameters / 1e6:.2f}", *speeds, f"{100 * self.equal:.4f} %", *published]


_WAYS = ("torch fp32", "openvino fp32", "openvino bf16")


def measure(name: str, images: Sequence[Image.Image], short_side: int, rounds: int, stretch_s: float = _STRETCH_S) -> Measured:
    """Run one network on both engines, in interleaved rounds on the first image; compare the labels of all images."""
    tensors = weights_of(name)
    fast = prepared(name, "openvino", tensors)
    engines = {f"openvino {each}": load_engine(replace(fast, precision=each)) for each in PRECISIONS[: 1 + has_bf16()]}
    engines["torch fp32"] = load_engine(prepared(name, "torch", tensors))
    pixels_HWC = resize(images[0], short_side, max_pixels=1 << 30)
    seconds: dict[str, list[float]] = {way: [] for way in engines}
    for _ in range(rounds):
        for way, engine in engines.items():
            seconds[way].append(seconds_per_call(partial(engine.logits, pixels_HWC), stretch_s))
    compared = images[:1] if median(seconds["openvino fp32"]) > _HEAVY_S else images
    equal = agreement(engines["openvino fp32"], engines["torch fp32"], compared, short_side)
    return Measured(name, parameters(name), seconds, equal)


def seconds_per_call(call: Callable[[], object], stretch_s: float) -> float:
    """Mean seconds per call, over as many calls as fill `stretch_s`. A first call is not counted."""
    call()
    calls, started = 0, time.perf_counter()
    while True:
        call()
        calls += 1
        if (elapsed := time.perf_counter() - started) >= stretch_s:
            return elapsed / calls


def label_map(engine: Engine, image: Image.Image, short_side: int) -> npt.NDArray[np.uint8]:
    """The label map of an upright RGB image, uint8 (H, W) with the size of the image, as a run stores it."""
    logits = engine.logits(resize(image, short_side, max_pixels=1 << 30))
    return labels_of(engine, logits, image.height, image.width).mask


def agreement(engine: Engine, reference: Engine, images: Sequence[Image.Image], short_side: int) -> float:
    """The fraction of pixels, 0 to 1, that both engines label alike."""
    equal = sum(int((label_map(engine, each, short_side) == label_map(reference, each, short_side)).sum()) for each in images)
    return equal / sum(image.width * image.height for image in images)


def parameters(name: str) -> int:
    """How many parameters a network has at inference, without an auxiliary head."""
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in architecture(name, CLASSES).parameters())


def weights_of(name: str) -> Tensors:
    """The bundled weights for the default model, seeded random weights for the others."""
    return state_dict(load_weights(BUNDLED, name), name) if name == DEFAULT_MODEL else _seeded_weights(name)


def _seeded_weights(name: str) -> Tensors:
    """Random weights, equal in each call, whose labels vary over a photograph like those of a trained network.

    In an untrained network, activations die out or blow up over the layers, and one class wins everywhere: any two engines
    would agree. Here each batch norm holds the statistics of the bundled photographs, as after training. The classifier is
    centred and scaled to logits with mean 0 per class and standard deviation 4.
    """
    import torch
    from torchvision.transforms.functional import normalize

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(_SEED)
        model = architecture(name, CLASSES)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # keeps the statistics of this batch only
            elif isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        side = (_CALIBRATION_SIDE, _CALIBRATION_SIDE)
        squares = [decode(data, max_source_pixels=1 << 30).image.resize(side) for _, data in photographs()]
        x_NCHW = torch.from_numpy(np.stack([np.asarray(image) for image in squares])).permute(0, 3, 1, 2).float() / 255
        x_NCHW = normalize(x_NCHW, list(TORCHVISION_PRESET.mean), list(TORCHVISION_PRESET.std))
        model.train()(x_NCHW)
        logits = model.eval()(x_NCHW)["out"]
        centre, scale = logits.mean((0, 2, 3)), _LOGIT_STD / logits.std()
        tensors: Tensors = {key: value.clone() for key, value in model.state_dict().items()}
    last = [ZOO[name].classifier_key.removesuffix(".weight")]
    if "low_classifier" in last[0]:  # LR-ASPP adds the logits of two classifiers
        last.append(last[0].replace("low_", "high_"))
    for layer in last:
        tensors[f"{layer}.weight"] *= scale
        tensors[f"{layer}.bias"] = (tensors[f"{layer}.bias"] - centre / len(last)) * scale
    return tensors


def prepared(name: str, engine: str, tensors: Tensors) -> Prepared:
    """The network as `load_engine` takes it, in fp32. It is not put into the cache, which is for users' runs."""
    with tempfile.TemporaryDirectory() as folder:
        write_network(name, engine, tensors, Path(folder))
        graph, binary = Path(folder) / "network.xml", Path(folder) / "network.bin"
        return Prepared(
            model=name, engine=engine, precision="fp32", weights="benchmark", weights_sha256="",
            classes=tuple(map(str, range(count_classes(name, tensors)))), preset=TORCHVISION_PRESET,
            graph=graph.read_bytes() if graph.exists() else b"", tensors=binary.read_bytes(),
        )  # fmt: skip
