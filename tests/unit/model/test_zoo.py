"""The networks: sizes as published, LR-ASPP as in the paper, weights that are not theirs."""

import functools
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import UsageError
from pipeline.model.weights import default_classes, load_weights, state_dict
from pipeline.model.zoo import DEFAULT_MODEL, ZOO, Model, architecture, build, fitting

LRASPP = ("lraspp_mobilenet_v3_large", "lraspp_mobilenet_v3_small")
# At inference, in millions; torchvision publishes none of the small LR-ASPP: its own count.
PARAMETERS = {
    "lraspp_mobilenet_v3_large": 3.22, "lraspp_mobilenet_v3_small": 1.08, "deeplabv3_mobilenet_v3_large": 11.03,
    "fcn_mobilenet_v3_large": 5.05, "deeplabv3_resnet50": 39.64, "fcn_resnet50": 32.96,
}  # fmt: skip


@functools.cache
def _meta(name: str, classes: int = 21) -> nn.Module:
    with torch.device("meta"):
        return architecture(name, classes).eval()


def _shapes(module: nn.Module, parts: dict[str, nn.Module], *size: int) -> dict[str, tuple[int, ...]]:
    """Output shapes of these submodules for one image of (height, width)."""
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        return lambda _module, _inputs, output: found.update({name: tuple(output.shape[1:])})

    hooks = [part.register_forward_hook(note(name)) for name, part in parts.items()]
    module(torch.empty(1, 3, *size, device="meta"))
    for hook in hooks:
        hook.remove()
    return found


def test_the_choices_of_the_flag_are_the_zoo() -> None:
    assert typing.get_args(Model) == tuple(ZOO)


@pytest.mark.parametrize("name", ZOO)
def test_parameters_at_inference_are_the_published_ones(name: str) -> None:
    model = _meta(name)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == PARAMETERS[name]
    assert not [key for key in model.state_dict() if key.startswith("aux")]


@pytest.mark.parametrize("name", ZOO)
def test_logits_end_at_the_stride_of_the_network(name: str) -> None:
    height, width = 97, 130
    with torch.device("meta"):
        network = build(name, _meta(name).state_dict())
        logits = network(torch.empty(1, 3, height, width))
    assert not network.training
    assert logits.shape == (1, 21, -(-height // ZOO[name].stride), -(-width // ZOO[name].stride))


# Howard et al. 2019, section 6.4 and figure 10: R-ASPP on MobileNetV3 with the last block dilated to output stride 16, 128
# filters, low-level features at 1/8. torchvision pools globally (the paper: 49 x 49 at stride (16, 20)).


@pytest.mark.parametrize(("name", "low", "high"), [(LRASPP[0], 40, 960), (LRASPP[1], 24, 576)])
def test_lraspp_takes_features_at_strides_8_and_16(name: str, low: int, high: int) -> None:
    model: typing.Any = _meta(name)
    features = model.backbone(torch.empty(1, 3, 256, 320, device="meta"))
    assert features["low"].shape == (1, low, 32, 40)
    assert features["high"].shape == (1, high, 16, 20)
    parts = {"cbr": model.classifier.cbr, "scale": model.classifier.scale, "high": model.classifier.high_classifier}
    parts |= {"low": model.classifier.low_classifier, "all": model.classifier}
    assert _shapes(model, parts, 256, 320) == {
        "cbr": (128, 16, 20), "scale": (128, 1, 1), "low": (21, 32, 40), "high": (21, 32, 40), "all": (21, 32, 40),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "kernel"), [(LRASPP[0], 5), (LRASPP[1], 5)])
def test_lraspp_dilates_the_last_three_bottlenecks_instead_of_striding(name: str, kernel: int) -> None:
    model: typing.Any = _meta(name)
    depthwise = [
        layer for layer in model.backbone.modules() if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
    ]
    assert len(depthwise) == (15 if name == LRASPP[0] else 11)
    assert [layer.dilation for layer in depthwise] == [(1, 1)] * (len(depthwise) - 3) + [(2, 2)] * 3
    assert all(layer.stride == (1, 1) and layer.kernel_size == (kernel, kernel) for layer in depthwise[-3:])


@pytest.mark.parametrize("name", LRASPP)
def test_lraspp_head_has_128_channels_and_no_bias_where_it_pools(name: str) -> None:
    head: typing.Any = _meta(name).classifier
    conv, norm, relu = head.cbr
    pool, gate, sigmoid = head.scale
    assert (conv.out_channels, conv.kernel_size, conv.bias) == (128, (1, 1), None)
    assert (gate.out_channels, gate.kernel_size, gate.bias) == (128, (1, 1), None)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(relu, nn.ReLU)
    assert isinstance(sigmoid, nn.Sigmoid)
    assert pool.output_size == 1
    assert head.high_classifier.in_channels == 128
    assert head.low_classifier.bias is not None


# (channels, stride against the input) of each bottleneck: tables 1 and 2 of the paper, the last stride dilated. torchvision
# does not halve the channels of the last block, which the paper found to cost nothing.
STAGES = {
    LRASPP[0]: [
        (16, 2), (24, 4), (24, 4), (40, 8), (40, 8), (40, 8), (80, 16), (80, 16), (80, 16), (80, 16), (112, 16), (112, 16),
        (160, 16), (160, 16), (160, 16), (960, 16),
    ],
    LRASPP[1]: [
        (16, 4), (24, 8), (24, 8), (40, 16), (40, 16), (40, 16), (48, 16), (48, 16), (96, 16), (96, 16), (96, 16), (576, 16),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LRASPP)
def test_lraspp_stages_are_the_papers(name: str) -> None:
    model: typing.Any = _meta(name)
    found = _shapes(model, {key: block for key, block in model.backbone.items() if key != "0"}, 256, 320)
    assert [(channels, 256 // height) for channels, height, _ in found.values()] == STAGES[name]


def test_fcn_on_mobilenet_is_deeplabs_backbone_with_fcns_head() -> None:
    mine, deeplab, fcn = _meta("fcn_mobilenet_v3_large"), _meta("deeplabv3_mobilenet_v3_large"), _meta("fcn_resnet50")
    assert str(mine.backbone) == str(deeplab.backbone)
    assert [type(layer) for layer in mine.classifier] == [type(layer) for layer in fcn.classifier]  # type: ignore[union-attr]
    assert mine.classifier[0].in_channels == 960  # type: ignore[index, union-attr]


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_small", "fcn_resnet50"])
def test_weights_tell_whose_they_are(name: str) -> None:
    assert fitting(_meta(name, 7).state_dict()) == name


@pytest.mark.parametrize("name", [name for name, network in ZOO.items() if not network.published])
@pytest.mark.parametrize("member", ["COCO_WITH_VOC_LABELS_V1", "DEFAULT"])
def test_where_torchvision_has_no_weights_a_file_is_asked_for(name: str, member: str) -> None:
    with pytest.raises(UsageError, match=f"--weights {member}: torchvision has no weights of {name}: pass a file"):
        load_weights(member, name)


@pytest.mark.parametrize("name", [name for name in ZOO if name != DEFAULT_MODEL and not name.startswith("lraspp")])
def test_bundled_weights_are_the_default_models_alone(name: str) -> None:
    with pytest.raises(UsageError, match=f"not the weights of {name} but of {DEFAULT_MODEL}: --model {DEFAULT_MODEL}"):
        state_dict(load_weights("bundled", name), name)


def test_a_checkpoint_with_an_auxiliary_head_and_voc_classes(tmp_path: Path) -> None:
    name = "fcn_mobilenet_v3_large"
    tensors = architecture(name, 21).state_dict()
    save_file({**tensors, "aux_classifier.4.weight": torch.zeros(21, 10, 1, 1)}, tmp_path / "mine.safetensors")
    weights = load_weights(str(tmp_path / "mine.safetensors"), name)
    loaded = state_dict(weights, name)
    assert loaded.keys() == tensors.keys()
    names = default_classes(21, weights)
    assert names is not None
    assert names[0] == "__background__"
    assert names[15] == "person"
    assert default_classes(20, weights) is None
