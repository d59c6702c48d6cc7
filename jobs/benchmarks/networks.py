"""The networks as benchmarks run them: published figures, weights where none are to be had, arithmetic, bytes for the engines."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jobs.benchmarks.photographs import photographs
from pipeline.image.decode import decode
from pipeline.model.engine import Prepared
from pipeline.model.prepare import write_network
from pipeline.model.weights import BUNDLED, TORCHVISION_PRESET, load_weights, state_dict
from pipeline.model.zoo import DEFAULT_MODEL, ZOO, architecture, build, count_classes

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]

SEED = 7
CLASSES = 21  # PASCAL VOC's, as torchvision's weights have
_CALIBRATION_SIDE = 96  # pixels
_LOGIT_STD = 4.0  # about what a trained network shows


@dataclass(frozen=True, slots=True)
class Published:
    """Of torchvision's pull requests and documentation: CPU seconds an image; mIoU and pixel accuracy, % of COCO val2017."""

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


def weights_of(name: str) -> Tensors:
    """The bundled weights of the default model, seeded ones of the others: speed does not depend on their values."""
    return state_dict(load_weights(BUNDLED, name), name) if name == DEFAULT_MODEL else seeded_weights(name)


def seeded_weights(name: str, classes: int = CLASSES) -> Tensors:
    """Random weights, the same for a seed, whose labels vary over a photograph as those of a trained network do.

    Untrained, activations die out or blow up over the layers and one class wins everywhere, so that any engine would
    agree with any other. Here each batch norm holds the statistics of the bundled photographs, as after training, and
    the classifier is centred and scaled to logits of mean 0 a class and standard deviation 4.
    """
    import torch
    from torchvision.transforms.functional import normalize

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(SEED)
        model = architecture(name, classes)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # the statistics of this one batch
            elif isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        side = (_CALIBRATION_SIDE, _CALIBRATION_SIDE)
        squares = [decode(data, max_source_pixels=1 << 30).image.resize(side) for data in photographs()]
        x_NCHW = torch.from_numpy(np.stack([np.asarray(image) for image in squares])).permute(0, 3, 1, 2).float() / 255
        x_NCHW = normalize(x_NCHW, list(TORCHVISION_PRESET.mean), list(TORCHVISION_PRESET.std))
        model.train()(x_NCHW)
        logits = model.eval()(x_NCHW)["out"]
        centre, scale = logits.mean((0, 2, 3)), _LOGIT_STD / logits.std()
        tensors: Tensors = {key: value.clone() for key, value in model.state_dict().items()}
    last = [ZOO[name].classifier_key.removesuffix(".weight")]
    if "low_classifier" in last[0]:  # LR-ASPP adds up two
        last.append(last[0].replace("low_", "high_"))
    for layer in last:
        tensors[f"{layer}.weight"] *= scale
        tensors[f"{layer}.bias"] = (tensors[f"{layer}.bias"] - centre / len(last)) * scale
    return tensors


def prepared(name: str, engine: str, tensors: Tensors) -> Prepared:
    """What `load_engine` takes, in fp32, made here and not kept: the cache is for what users run."""
    with tempfile.TemporaryDirectory() as folder:
        write_network(name, engine, tensors, Path(folder))
        graph, binary = Path(folder) / "network.xml", Path(folder) / "network.bin"
        return Prepared(
            model=name, engine=engine, precision="fp32", weights="benchmark", weights_sha256="",
            classes=tuple(map(str, range(count_classes(name, tensors)))), preset=TORCHVISION_PRESET,
            graph=graph.read_bytes() if graph.exists() else b"", tensors=binary.read_bytes(),
        )  # fmt: skip


def torch_call(
    name: str, tensors: Tensors, pixels_HWC: npt.NDArray[np.uint8], *, channels_last: bool, precision: str
) -> Callable[[int], object]:
    """A function that runs the network in torch on a batch of so many copies of this image, normalised beforehand."""
    import torch
    from torchvision.transforms.functional import normalize

    from pipeline.model.torch_engine import forward

    torch.set_num_threads(1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = build(name, tensors).to(memory_format=layout)
    x_NCHW = torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
    x_NCHW = normalize(x_NCHW, list(TORCHVISION_PRESET.mean), list(TORCHVISION_PRESET.std))
    batches: dict[int, Tensor] = {}

    @torch.inference_mode()
    def call(batch: int) -> object:
        if batch not in batches:
            batches[batch] = x_NCHW.repeat(batch, 1, 1, 1).contiguous(memory_format=layout)
        return forward(network, batches[batch], precision)

    return call


def torch_as_written(
    name: str, tensors: Tensors, pixels_HWC: npt.NDArray[np.uint8], *, channels_last: bool
) -> Callable[[int], "Tensor"]:
    """What torchvision's documentation writes, in eager float32: the preset's transforms, the whole model, `argmax`.

    A function from a batch of so many copies of this image to its label maps (N, H, W).
    """
    import torch
    from torchvision.transforms._presets import SemanticSegmentation

    torch.set_num_threads(1)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = architecture(name, count_classes(name, tensors))
    model.load_state_dict(tensors)
    model.eval().to(memory_format=layout)
    height, width = pixels_HWC.shape[:2]
    preprocess = SemanticSegmentation(resize_size=min(height, width), mean=TORCHVISION_PRESET.mean, std=TORCHVISION_PRESET.std)
    image_CHW = torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1).contiguous()

    @torch.inference_mode()
    def call(batch: int) -> torch.Tensor:
        x_NCHW = preprocess(image_CHW.repeat(batch, 1, 1, 1)).contiguous(memory_format=layout)
        labels: torch.Tensor = model(x_NCHW)["out"].argmax(1)
        return labels

    return call


def parameters(name: str) -> int:
    """Parameters at inference: without an auxiliary head."""
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in architecture(name, CLASSES).parameters())


def multiply_adds(name: str, height: int, width: int) -> int:
    """Multiply-accumulates of an image of this size, convolutions and matrix products alone, by torch's own counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        architecture(name, CLASSES).eval()(torch.empty(1, 3, height, width))
    return int(counter.get_total_flops()) // 2
