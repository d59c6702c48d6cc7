"""Correctness before speed: what a contender wrote, against plain torchvision or against maskfleet's own labels."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from pipeline.labels.png import decode_png
from tests.peers.contenders import PeerFailed
from tests.peers.task import Task, image_id

MIN_AGREEMENT = 0.9999  # of pixels: batches of another size round their sums otherwise
MIN_AGREEMENT_OF_ENGINES = 0.999
MAX_RESIZE_DIFFERENCE = 8.0  # mean of 255 levels: every library resizes in its own way, but not another photograph

Masks = dict[str, npt.NDArray[np.uint8]]


def read_masks(name: str, out: Path, wanted: Iterable[str]) -> Masks:
    """Masks by image id, of PNG files, of Parquet, or of a run. Raises `PeerFailed` unless each image is there once."""
    encoded = [(path.stem, path.read_bytes()) for path in sorted(out.glob("*.png"))]
    folder = out / "masks" if (out / "masks").is_dir() else out
    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file)
        ids = table.column("image_id" if "image_id" in table.column_names else "path").to_pylist()
        masks = table.column("mask") if "mask" in table.column_names else pc.struct_field(table.column("row"), "mask")
        for key, mask in zip(ids, masks.to_pylist(), strict=True):
            encoded.append((image_id(key), mask["bytes"] if isinstance(mask, dict) else mask))
    expected = sorted(wanted)
    if sorted(key for key, _ in encoded) != expected:
        raise PeerFailed(f"{name}: {len(encoded)} masks of {len({key for key, _ in encoded})} of {len(expected)} images")
    return {key: decode_png(data) for key, data in encoded}


def agreement(name: str, found: Mapping[str, npt.NDArray[np.uint8]], expected: Masks, least: float) -> float:
    """Part of the pixels that are equal, over the images of `expected`. Raises `PeerFailed` below `least`."""
    equal = pixels = 0
    for key, mask in expected.items():
        if found[key].shape != mask.shape:
            raise PeerFailed(f"{name}: the mask of {key} is {found[key].shape}, not {mask.shape}")
        equal, pixels = equal + int((found[key] == mask).sum()), pixels + mask.size
    if equal < least * pixels:
        raise PeerFailed(f"{name}: {100 * equal / pixels:.4f} % of the pixels are as they should be, not {100 * least:g} %")
    return equal / pixels


def check_recipe(name: str, task: Task, masks: Masks) -> float:
    """A recipe's masks against plain torchvision, an image at a time, on the pixels that the recipe kept.

    Those pixels must be the photograph. -> part of the mask pixels that are equal.
    """
    import torch

    from tests.peers.torch_recipe import to_tensor, torchvision_model

    assert task.keep is not None
    model, tensor, expected = torchvision_model(), to_tensor(), {}
    for path in task.paths():
        pixels_HWC = np.load(Path(task.keep) / f"{image_id(path)}.npy")
        photograph = Image.open(io.BytesIO(Path(path).read_bytes())).convert("RGB")
        plain_HWC = np.asarray(photograph.resize((task.short_side, task.short_side), Image.Resampling.BILINEAR))
        difference = np.abs(pixels_HWC.astype(np.float32) - plain_HWC).mean()
        if pixels_HWC.shape != plain_HWC.shape or difference > MAX_RESIZE_DIFFERENCE:
            raise PeerFailed(f"{name}: what it fed the network is not {path} (mean difference {difference:.1f} of 255)")
        with torch.inference_mode():
            expected[image_id(path)] = model(tensor(pixels_HWC).unsqueeze(0))["out"][0].argmax(0).to(torch.uint8).numpy()
    return agreement(name, masks, expected, MIN_AGREEMENT)


def check_ours(task: Task, masks: Masks) -> float:
    """maskfleet's masks against plain torchvision at the original size -> part of the pixels that are equal."""
    import torch
    from torch.nn import functional as F
    from torchvision.transforms._presets import SemanticSegmentation

    from pipeline.image.decode import decode
    from tests.peers.torch_recipe import torchvision_model

    model, transforms, expected = torchvision_model(), SemanticSegmentation(resize_size=task.short_side), {}
    for path in task.paths():
        image = decode(Path(path).read_bytes(), max_source_pixels=1 << 30).image
        with torch.inference_mode():
            features = model.classifier(model.backbone(transforms(image).unsqueeze(0)))  # type: ignore[operator]
            logits = F.interpolate(features, size=(image.height, image.width), mode="bilinear", align_corners=False)
        expected[image_id(path)] = logits[0].argmax(0).to(torch.uint8).numpy()
    return agreement("maskfleet", masks, expected, MIN_AGREEMENT_OF_ENGINES if task.precision == "fp32" else 0.98)
