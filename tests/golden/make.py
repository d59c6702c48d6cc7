"""Make the golden outputs of this version: `python -m tests.golden.make formatN`, once, before the format is raised.

They lie in `tests/golden/formatN/`, as a run on S3 leaves them: S3's ETags are of the bytes, so that the same inputs, laid on
another server, are the objects that were planned. Networks of the zoo change; this one is made up, and always the same.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.support.images import encode, jpeg, oriented, scene
from tests.support.parquets import parquet_bytes
from tests.support.s3_server import S3Server
from tests.support.tars import cut_in_body, photos, tar_bytes

HERE = Path(__file__).parent
INPUTS = HERE / "input"
BUCKET = "golden"
MODEL = "lraspp_mobilenet_v3_small"
CLASSES = ("background", "cat", "dog", "horse", "cow")
FLAGS = (
    "--input", f"s3://{BUCKET}/input", "--model", MODEL, "--weights", f"s3://{BUCKET}/weights.safetensors",
    "--short-side", "64", "--part-images", "3", "--workers", "1", "--failure-budget", "1", "--allow-broken-shards", "1",
)  # fmt: skip
OUTPUTS = {
    "complete": ("--confidence-map",),  # in format 1 with --min-confidence 0.213, which a new output refuses by now
    "incomplete": ("--limit", "6"),
}


def weights() -> bytes:
    """A checkpoint whose bytes follow from its shapes alone: safetensors, its tensors in order of name."""
    import torch

    from pipeline.model.zoo import architecture

    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in architecture(MODEL, len(CLASSES)).state_dict().items()}
    header: dict[str, object] = {"__metadata__": {"classes": json.dumps(CLASSES)}}
    body, place = b"", 0
    for name, shape in sorted(shapes.items()):
        data = _tensor(name, shape).tobytes()
        kind = "F32" if shape else "I64"
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [place, place + len(data)]}
        body, place = body + data, place + len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def _tensor(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32] | npt.NDArray[np.int64]:
    if not shape:  # how many batches a norm has seen
        return np.zeros((), "<i8")
    if len(shape) == 1:
        return np.full(shape, name.endswith(("running_var", "weight")), "<f4")
    count = int(np.prod(shape))
    noise = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(1 << 32)) >> np.uint64(16)
    spread = np.sqrt(6 / np.prod(shape[1:]))
    values: npt.NDArray[np.float32] = ((noise.astype(np.float64) / 32768 - 1) * spread).astype("<f4").reshape(shape)
    return values


def _write_inputs() -> None:
    (INPUTS / "single").mkdir(parents=True)
    damaged = [*photos(4), ("0005.jpg", b"\xff\xd8 no photograph"), *photos(2, first=6)]
    (INPUTS / "a.tar").write_bytes(tar_bytes(damaged))
    (INPUTS / "b.tar").write_bytes(cut_in_body(tar_bytes(photos(4, first=11)), 2))
    (INPUTS / "c.parquet").write_bytes(parquet_bytes([jpeg(21), None, jpeg(23), jpeg(24)], layout="struct", row_group_rows=2))
    (INPUTS / "single" / "turned.jpg").write_bytes(oriented(6, "JPEG"))
    (INPUTS / "single" / "plain.png").write_bytes(encode(scene(31), "PNG"))


def lay(server: S3Server) -> None:
    """The bucket with the inputs and the checkpoint, as they were when the outputs were made."""
    server.make_bucket(BUCKET)
    files = server.filesystem()
    for path in sorted(INPUTS.rglob("*")):
        if path.is_file():
            files.pipe_file(f"{BUCKET}/input/{path.relative_to(INPUTS)}", path.read_bytes())
    files.pipe_file(f"{BUCKET}/weights.safetensors", weights())


def make(name: str) -> None:
    """Run the job, and keep what it leaves."""
    if not INPUTS.exists():
        _write_inputs()
    with tempfile.TemporaryDirectory() as folder, S3Server(Path(folder)) as server:
        lay(server)
        for output, flags in OUTPUTS.items():
            target = f"s3://{BUCKET}/{output}"
            command = [sys.executable, "-m", "jobs.segment", *FLAGS, *flags, "--output", target]
            subprocess.run(command, check=True, env=os.environ | server.env | {"RAY_ADDRESS": "local"})
            _keep(server, f"{output}/", HERE / name / output)


def _keep(server: S3Server, prefix: str, folder: Path) -> None:
    files = server.filesystem()
    for name in files.find(f"{BUCKET}/{prefix}"):
        path = folder / name.removeprefix(f"{BUCKET}/{prefix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files.cat_file(name))


if __name__ == "__main__":
    make(sys.argv[1])
