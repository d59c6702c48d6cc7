"""The networks that maskfleet runs, by torchvision's names. Imports torch only to build a network."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_CLASSES: Final = 255  # 255 itself means ignore
DEFAULT_MODEL: Final = "lraspp_mobilenet_v3_large"
Model = Literal[
    "lraspp_mobilenet_v3_large", "lraspp_mobilenet_v3_small", "deeplabv3_mobilenet_v3_large", "fcn_mobilenet_v3_large",
    "deeplabv3_resnet50", "fcn_resnet50",
]  # fmt: skip
_MOBILENET_CHANNELS = 960  # the last feature map of MobileNetV3-Large has so many


@dataclass(frozen=True, slots=True)
class Network:
    """A segmentation model of torchvision, or one that is built from torchvision's parts.

    published: torchvision has a builder, a weights enum and figures for it.
    classifier_key: name of the tensor whose first axis is the number of classes. stride: input pixels per logit, 8 or 16.
    """

    name: Model
    published: bool
    classifier_key: str
    stride: int


ZOO: Final[dict[str, Network]] = {
    network.name: network
    for network in (
        Network(DEFAULT_MODEL, True, "classifier.low_classifier.weight", 8),
        Network("lraspp_mobilenet_v3_small", False, "classifier.low_classifier.weight", 8),
        Network("deeplabv3_mobilenet_v3_large", True, "classifier.4.weight", 16),
        Network("fcn_mobilenet_v3_large", False, "classifier.4.weight", 16),
        Network("deeplabv3_resnet50", True, "classifier.4.weight", 8),
        Network("fcn_resnet50", True, "classifier.4.weight", 8),
    )
}


def build(name: str, state_dict: "Mapping[str, Tensor]") -> "nn.Module":
    """The network in float32 and eval mode with these weights: (N, 3, H, W) normalised -> logits (N, C, h, w).

    The network is torchvision's model without its last interpolation and without an auxiliary head. h and w are H and W divided
    by the stride of the network, rounded up. Raises `KeyError` or `RuntimeError` if the weights do not fit.
    """
    import torch

    class Logits(torch.nn.Module):
        """backbone -> classifier."""

        def __init__(self, backbone: torch.nn.Module, classifier: torch.nn.Module, key: str | None) -> None:
            super().__init__()
            self.backbone, self.classifier, self.key = backbone, classifier, key

        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            features = self.backbone(x_NCHW)
            logits: torch.Tensor = self.classifier(features if self.key is None else features[self.key])
            return logits

    model: Any = architecture(name, count_classes(name, state_dict))
    model.load_state_dict(state_dict)
    key = None if name.startswith("lraspp") else "out"  # LR-ASPP's head takes both feature maps
    return Logits(model.backbone, model.classifier, key).eval()


def architecture(name: str, classes: int) -> "nn.Module":
    """The whole, untrained model of torchvision: (N, 3, H, W) -> {"out": logits (N, classes, H, W)}."""
    from torchvision.models import get_model, mobilenet_v3_small
    from torchvision.models.segmentation import FCN
    from torchvision.models.segmentation.fcn import FCNHead
    from torchvision.models.segmentation.lraspp import _lraspp_mobilenetv3

    model: nn.Module
    if name == "lraspp_mobilenet_v3_small":
        model = _lraspp_mobilenetv3(mobilenet_v3_small(weights=None, dilated=True), classes)
    elif name == "fcn_mobilenet_v3_large":
        backbone = architecture("deeplabv3_mobilenet_v3_large", classes).backbone
        model = FCN(backbone, FCNHead(_MOBILENET_CHANNELS, classes))
    else:
        model = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    return model


def count_classes(name: str, state_dict: "Mapping[str, Tensor]") -> int:
    """How many classes the weights tell apart. Raises `KeyError` if these are not the weights of this network."""
    weight = state_dict[ZOO[name].classifier_key]
    if weight.ndim != 4:
        raise KeyError(ZOO[name].classifier_key)
    return int(weight.shape[0])


def fitting(state_dict: "Mapping[str, Tensor]") -> str | None:
    """The network that has these tensors, by names and shapes; None if no network has."""
    import torch

    found = {key: value.shape for key, value in state_dict.items()}
    for name in ZOO:
        with suppress(KeyError), torch.device("meta"):  # shapes alone: nothing is allocated
            wanted = architecture(name, count_classes(name, state_dict)).state_dict()
            if {key: value.shape for key, value in wanted.items()} == found:
                return name
    return None
