"""Weights -> a network that workers can load, cached by digest. `labels/prepare.py` runs this in a process of its own."""

import json
import os
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cache import cache_folder
from pipeline.errors import UsageError
from pipeline.image.resize import Preset
from pipeline.model.engine import Prepared
from pipeline.model.weights import BUNDLED, class_names, load_weights
from pipeline.model.zoo import ZOO
from pipeline.storage import without_secrets

if TYPE_CHECKING:
    from torch import Tensor

_NETWORKS_FORMAT = 1  # raise this number if the cached files change their meaning


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """The flags that decide a prepared network."""

    model: str
    weights: str
    engine: str
    precision: str = "fp32"
    classes: str | None = None
    short_side: int | None = None


def folder_of_networks() -> Path:
    """The folder of converted networks."""
    return cache_folder() / "networks"


def cached_stem(request: NetworkRequest) -> str | None:
    """The name of the converted network in `folder_of_networks`; None if it is not there, or if only torch can tell its digest.

    Raises `UsageError` or `NotReachable`, with advice.
    """
    if request.model not in ZOO:
        raise UsageError(f"--model {request.model}: not one of {', '.join(ZOO)}")
    stem = _known_stem(request, folder_of_networks())
    return stem if stem is not None and (folder_of_networks() / f"{stem}.json").exists() else None


def read_prepared(request: NetworkRequest, stem: str) -> Prepared:
    """A network from the cache."""
    folder = folder_of_networks()
    described = json.loads((folder / f"{stem}.json").read_text())
    preset = Preset(request.short_side or described["short_side"], tuple(described["mean"]), tuple(described["std"]))
    default = None if described["classes"] is None else tuple(described["classes"])
    graph = folder / f"{stem}.xml"
    return Prepared(
        model=request.model, engine=request.engine, precision=request.precision, weights=without_secrets(request.weights),
        weights_sha256=described["sha256"], classes=class_names(described["count"], default, request.classes), preset=preset,
        graph=graph.read_bytes() if graph.exists() else b"", tensors=(folder / f"{stem}.bin").read_bytes(),
    )  # fmt: skip


def _stem(request: NetworkRequest, sha256: str) -> str:
    runtime = version(request.engine)
    return f"{sha256[:32]}-{request.model}-{request.engine}-{runtime}-{_NETWORKS_FORMAT}"


def _known_stem(request: NetworkRequest, folder: Path) -> str | None:
    """The name in the cache; None if the digest cannot be told without torch."""
    if request.weights == BUNDLED or "." in request.weights:
        return _stem(request, load_weights(request.weights, request.model).sha256)
    alias = folder / f"{request.weights}-{request.model}-{version('torchvision')}.alias"
    return _stem(request, alias.read_text()) if alias.exists() else None


def convert(request: NetworkRequest) -> str:
    """Convert a network into the cache -> its name there. Its .json is written last, so the other files are whole then.

    Imports torch.
    """
    from pipeline.model.weights import default_classes, misfit, state_dict
    from pipeline.model.zoo import count_classes

    folder = folder_of_networks()
    weights = load_weights(request.weights, request.model)
    tensors = state_dict(weights, request.model)
    stem = _stem(request, weights.sha256)
    count = count_classes(request.model, tensors)
    described = {
        "sha256": weights.sha256, "count": count, "classes": default_classes(count, weights),
        "short_side": weights.preset.short_side, "mean": weights.preset.mean, "std": weights.preset.std,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            write_network(request.model, request.engine, tensors, Path(scratch))
        except (KeyError, RuntimeError) as error:
            reason = " ".join(" ".join(str(error).splitlines()[1:2]).split())[:200] or type(error).__name__
            raise UsageError(misfit(weights.name, request.model, tensors, reason)) from error
        (Path(scratch) / "network.json").write_text(json.dumps(described))
        for suffix in (".xml", ".bin", ".json"):
            if (made := Path(scratch) / f"network{suffix}").exists():
                os.replace(made, folder / f"{stem}{suffix}")
    if request.weights != BUNDLED and "." not in request.weights:
        (folder / f"{request.weights}-{request.model}-{version('torchvision')}.alias").write_text(weights.sha256)
    return stem


def write_network(model: str, engine: str, tensors: "dict[str, Tensor]", folder: Path) -> None:
    """Write the files that an engine loads: OpenVINO's `network.xml` and `network.bin`; for torch, a safetensors `network.bin`.

    Imports torch. Raises `KeyError` or `RuntimeError` if the tensors do not fit the model.
    """
    import torch

    from pipeline.model.zoo import build

    network = build(model, tensors)
    if engine == "torch":
        from safetensors.torch import save_file

        save_file(tensors, folder / "network.bin")
        return
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the converter uses torch.jit, which torch plans to remove
        converted = ov.convert_model(network, example_input=torch.zeros(1, 3, 256, 320), input=[(1, 3, -1, -1)])
    ov.save_model(converted, folder / "network.xml", compress_to_fp16=False)
