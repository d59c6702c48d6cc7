"""Are a run's labels torchvision's? Pixel agreement, and mIoU of both against the ground truth.

`python -m jobs.benchmarks.parity OUT [--truth FOLDER…]`: OUT is a finished run with the bundled weights, a folder
holds `masks/<image_id>.png` (255 = void). Prints plain torchvision's figures beside the run's own.
"""

import click
import numpy as np

from jobs.benchmarks.truth import confusion, mean_iou, pixel_accuracy, truth_of
from jobs.command import run_job
from pipeline.api.opened import Run, open_run
from pipeline.errors import UsageError
from pipeline.labels.png import decode_png


@click.command()
@click.argument("out")
@click.option("--truth", "folders", multiple=True, metavar="FOLDER", help="Holds masks/<image_id>.png.")
def main(out: str, folders: tuple[str, ...]) -> None:
    """Compare a run with plain torchvision code, and both with the ground truth if there is one."""
    run_job(lambda: _parity(open_run(out), folders))


def _parity(run: Run, folders: tuple[str, ...]) -> int:
    import torch
    from safetensors.torch import load
    from torch.nn import functional as F
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large
    from torchvision.transforms._presets import SemanticSegmentation

    from pipeline.model.weights import load_weights

    labels = run.info["labels"]
    tensors = load(load_weights("bundled", labels["model"]).data)
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(labels["classes"])).eval()
    model.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in tensors.items()})
    transforms = SemanticSegmentation(resize_size=labels["short_side"], mean=labels["mean"], std=labels["std"])
    count = len(labels["classes"])
    mine, theirs = np.zeros((count, count), np.int64), np.zeros((count, count), np.int64)
    equal = seen = images = 0
    for batch in run.masks.to_batches(batch_size=16):
        for row in batch.to_pylist():
            mask = decode_png(row["mask"]["bytes"])
            with torch.inference_mode():
                x_NCHW = transforms(run.image(row)).unsqueeze(0)
                features = model.classifier(model.backbone(x_NCHW))  # one bilinear step, to the original size
                logits = F.interpolate(features, size=mask.shape, mode="bilinear", align_corners=False)
            plain = logits[0].argmax(0).numpy().astype(np.uint8)
            equal, seen, images = equal + int((plain == mask).sum()), seen + mask.size, images + 1
            if folders:
                truth = truth_of(row["image_id"], folders)
                if truth is None:
                    raise UsageError(f"--truth: no masks/{row['image_id']}.png in {', '.join(folders)}")
                mine += confusion(truth, mask, count)
                theirs += confusion(truth, plain, count)
    click.echo(f"{images} images: {100 * equal / seen:.5f} % of {seen:,} pixels equal plain torchvision's")
    for name, pixels in (("this run", mine), ("torchvision", theirs)) if folders else ():
        click.echo(f"{name:12} mIoU {mean_iou(pixels):.5f}, pixel accuracy {pixel_accuracy(pixels):.5f}")
    return 0


if __name__ == "__main__":
    main()
