"""Weights by name or URI -> their bytes, digest, classes and preset. Never executes a pickle."""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import NotReachable, StorageError, UsageError
from pipeline.image.resize import Preset
from pipeline.model.zoo import DEFAULT_MODEL, MAX_CLASSES, ZOO, count_classes, fitting
from pipeline.storage import base_name, normalise, scheme_of, store_for, without_query, without_secrets

if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = "bundled"
_SUFFIXES = (".pth", ".pt", ".safetensors")
_MAX_HEADER_BYTES = 100 << 20  # safetensors' own limit
TORCHVISION_PRESET = Preset(520, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """Weights as bytes. The suffix of `name` says the format; `sha256` is the digest of the bytes."""

    name: str
    data: bytes
    sha256: str
    classes: tuple[str, ...] | None
    preset: Preset

    @property
    def is_safetensors(self) -> bool:
        """Is it a safetensors file? Else it is a torch pickle."""
        return self.name.endswith(".safetensors")


def load_weights(weights: str, model: str) -> WeightsFile:
    """The weights that `--weights` names. Imports torchvision for its enums only.

    Raises `UsageError` if the name or the file is wrong, `NotReachable` if the weights cannot be had.
    """
    if weights == BUNDLED:
        return _described(f"{BUNDLED}.safetensors", (resources.files("pipeline.model") / "bundled.safetensors").read_bytes())
    if without_query(weights).endswith(_SUFFIXES):
        uri = normalise(weights)
        try:
            return _described(base_name(uri), store_for(uri).read(uri))
        except StorageError as error:
            raise NotReachable(f"--weights: {error}") from error
    if "/" in weights or scheme_of(weights) != "file":
        raise UsageError(f"--weights {without_secrets(weights)}: a file must end in {', '.join(_SUFFIXES)}")
    return _from_torchvision(weights, model)


def _described(name: str, data: bytes) -> WeightsFile:
    classes, preset = _safetensors_preset(data) if name.endswith(".safetensors") else (None, TORCHVISION_PRESET)
    return WeightsFile(name, data, hashlib.sha256(data).hexdigest(), classes, preset)


def _safetensors_preset(data: bytes) -> tuple[tuple[str, ...] | None, Preset]:
    """Classes and preset from the metadata of a safetensors file; torchvision's preset for values that are missing."""
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise UsageError("--weights: not a safetensors file, or a truncated one")
    try:
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        classes = tuple(str(name) for name in json.loads(metadata["classes"])) if "classes" in metadata else None
        default = TORCHVISION_PRESET
        preset = Preset(
            int(metadata.get("short_side", default.short_side)),
            _triple(metadata.get("mean"), default.mean),
            _triple(metadata.get("std"), default.std),
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"--weights: the safetensors metadata cannot be read: {error}") from error
    return classes, preset


def _triple(text: str | None, default: tuple[float, float, float]) -> tuple[float, float, float]:
    if text is None:
        return default
    red, green, blue = (float(value) for value in json.loads(text))
    return red, green, blue


def _from_torchvision(member: str, model: str) -> WeightsFile:
    """The weights of a member of torchvision's weights enum, downloaded once into torch's own cache."""
    if not ZOO[model].published:
        raise UsageError(
            f"--weights {member}: torchvision has no weights of {model}: pass a file (--weights FILE, .pth or .safetensors)"
        )
    from torchvision.models import get_model_weights

    enum: Any = get_model_weights(model)
    if member not in enum.__members__:
        known = ", ".join(enum.__members__)
        raise UsageError(f"--weights {member}: not one of bundled, {known}, nor a .pth or .safetensors file")
    entry = enum[member]
    path = _download(entry.url, member)
    transforms = entry.transforms()
    preset = Preset(int(transforms.resize_size[0]), tuple(transforms.mean), tuple(transforms.std))
    data = path.read_bytes()
    return WeightsFile(path.name, data, hashlib.sha256(data).hexdigest(), tuple(entry.meta["categories"]), preset)


def _download(url: str, member: str) -> Path:
    """The file in torch's hub cache. Its name holds the first 8 hex digits of its digest, which are checked."""
    from urllib.error import URLError

    import torch

    name = url.rpartition("/")[2]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / name
    wanted = name.rpartition("-")[2].partition(".")[0]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=wanted, progress=False)
        except (URLError, OSError) as error:
            raise NotReachable(
                f"--weights {member}: torchvision's file cannot be had ({getattr(error, 'reason', error)}); put {name} into "
                f"{folder}, or pass --weights FILE (your own .pth or .safetensors) or --weights bundled (small, modest)"
            ) from error
        except RuntimeError as error:
            raise NotReachable(f"--weights {member}: the download is damaged: {error}") from error
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(wanted):
        raise UsageError(f"--weights {member}: {path} is damaged (its digest does not begin with {wanted}): remove it")
    return path


def state_dict(weights: WeightsFile, model: str) -> "dict[str, Tensor]":
    """The tensors in float32, by torchvision's names: unwrapped from a checkpoint, without DDP's prefix and aux heads.

    Pickles are loaded with `weights_only`: no code in them is executed. Raises `UsageError` if the file holds anything else.
    """
    import io

    import torch
    from safetensors.torch import load as load_safetensors

    try:
        if weights.is_safetensors:
            loaded: Any = load_safetensors(weights.data)
        else:
            loaded = torch.load(io.BytesIO(weights.data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make the loaders raise any error
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(
            f"--weights {weights.name}: not a file of plain tensors ({type(error).__name__}: {reason[:150]})"
        ) from error
    for wrapper in ("model", "state_dict", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UsageError(f"--weights {weights.name}: holds no state dict")
    tensors = {name.removeprefix("module."): value for name, value in loaded.items()}
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    tensors = {name: value for name, value in tensors.items() if not name.startswith("aux_classifier.")}
    try:
        count = count_classes(model, tensors)
    except KeyError as error:
        raise UsageError(misfit(weights.name, model, tensors, f"no {ZOO[model].classifier_key}")) from error
    if count > MAX_CLASSES:
        raise UsageError(f"--weights {weights.name}: {count} classes; at most {MAX_CLASSES} fit into a mask (255 is ignore)")
    return tensors


def misfit(file: str, model: str, tensors: "dict[str, Tensor]", reason: str) -> str:
    """The error line for weights that do not fit the model. It names the model that they fit, if there is one."""
    other = fitting(tensors)
    return f"--weights {file}: not the weights of {model}" + (f" but of {other}: --model {other}" if other else f" ({reason})")


def default_classes(count: int, weights: WeightsFile) -> tuple[str, ...] | None:
    """The class names in the weights; else PASCAL VOC's, as torchvision's weights have, if the number fits; else None."""
    if weights.classes is not None:
        return weights.classes
    from torchvision.models import get_model_weights

    enum: Any = get_model_weights(DEFAULT_MODEL)  # all of torchvision's segmentation weights have these names
    categories = tuple(enum.DEFAULT.meta["categories"])
    return categories if len(categories) == count else None


def class_names(count: int, default: tuple[str, ...] | None, classes_file: str | None) -> tuple[str, ...]:
    """The names of `count` classes: from `--classes`, else `default`. Raises `UsageError` if their number is wrong."""
    names = read_classes(classes_file) if classes_file is not None else default
    if names is None:
        raise UsageError(f"the weights tell {count} classes apart: name them with --classes FILE")
    if len(names) != count:
        raise UsageError(f"--classes: {len(names)} names, but the weights tell {count} classes apart")
    return names


def read_classes(uri: str) -> tuple[str, ...]:
    """The class names in a file: one per line, or a JSON list."""
    uri = normalise(uri)
    store = store_for(uri)
    try:
        if (store.stat(uri).size or 0) > 1 << 20:
            raise UsageError(
                f"--classes {without_secrets(uri)}: more than 1 MiB, which is no list of at most {MAX_CLASSES} names"
            )
        text = store.read(uri).decode("utf-8-sig")
        names = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except StorageError as error:
        raise UsageError(f"--classes: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--classes {without_secrets(uri)}: {error}") from error
    cleaned = tuple(str(name).strip() for name in names if str(name).strip())
    if not cleaned or len(cleaned) > MAX_CLASSES:
        raise UsageError(f"--classes {without_secrets(uri)}: {len(cleaned)} names; 1 to {MAX_CLASSES} are possible")
    return cleaned
