"""The networks that can be run, by torchvision's names. Imports torch only where a network is built."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_CLASSES: Final = 255  # 255 itself means ignore


@dataclass(frozen=True, slots=True)
class Network:
    """A torchvision segmentation model: its builder, its weights enum, and the key that counts classes."""

    name: str
    weights_enum: str
    classifier_key: str


ZOO: Final = {
    network.name: network
    for network in (
        Network("lraspp_mobilenet_v3_large", "LRASPP_MobileNet_V3_Large_Weights", "classifier.low_classifier.weight"),
    )
}


def build(name: str, state_dict: "Mapping[str, Tensor]") -> "nn.Module":
    """The network in float32 and eval mode with these weights: (N, 3, H, W) normalised -> stride-8 logits (N, C, h, w).

    It is torchvision's model without its last interpolation. Raises `KeyError` or `RuntimeError` where
    the weights do not fit.
    """
    import torch
    from torchvision.models import get_model

    class Logits(torch.nn.Module):
        """backbone -> classifier, at stride 8."""

        def __init__(self, backbone: torch.nn.Module, classifier: torch.nn.Module) -> None:
            super().__init__()
            self.backbone, self.classifier = backbone, classifier

        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(self.backbone(x_NCHW))
            return logits

    classes = count_classes(name, state_dict)
    model = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    model.load_state_dict(state_dict)
    return Logits(model.backbone, model.classifier).eval()


def count_classes(name: str, state_dict: "Mapping[str, Tensor]") -> int:
    """How many classes the weights tell apart. Raises `KeyError` where they are not this network's."""
    return int(state_dict[ZOO[name].classifier_key].shape[0])
