"""Weights by name, file and URI: what they bring, and what is refused."""

import functools
import hashlib
import http.server
import json
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import NotReachable, UsageError
from pipeline.labels.prepare import prepare
from pipeline.model.engine import Prepared
from pipeline.model.prepare import NetworkRequest, cached_stem, convert, folder_of_networks, read_prepared
from pipeline.model.weights import load_weights, read_classes
from tests.conftest import ROOT

MODEL = "lraspp_mobilenet_v3_large"
BUNDLED = ROOT / "pipeline" / "model" / "bundled.safetensors"


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return load_file(BUNDLED)


@pytest.fixture(autouse=True)
def cold_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def _prepared_here(request: NetworkRequest) -> Prepared:
    """What `prepare` gives, made in this process, which has torch already: its child takes some ten seconds to start."""
    stem = cached_stem(request)
    folder_of_networks().mkdir(parents=True, exist_ok=True)
    return read_prepared(request, stem or convert(request))


def _request(weights: object, **more: str) -> NetworkRequest:
    return NetworkRequest(model=MODEL, weights=str(weights), engine="torch", **more)  # type: ignore[arg-type]


def test_bundled_brings_its_preset() -> None:
    weights = load_weights("bundled", MODEL)
    assert weights.sha256 == hashlib.sha256(BUNDLED.read_bytes()).hexdigest()
    assert weights.preset.short_side == 288
    assert weights.classes is not None
    assert len(weights.classes) == 21


@pytest.mark.parametrize("wrap", ["plain", "checkpoint", "ddp"])
def test_a_pth_file_in_its_usual_wrappings(tensors: dict[str, torch.Tensor], tmp_path: Path, wrap: str) -> None:
    state = {f"module.{name}": value for name, value in tensors.items()} if wrap == "ddp" else dict(tensors)
    state["aux_classifier.0.weight"] = torch.zeros(1)
    torch.save({"model": state, "epoch": 3} if wrap == "checkpoint" else state, tmp_path / "mine.pth")
    network = (prepare if wrap == "plain" else _prepared_here)(_request(tmp_path / "mine.pth"))  # once as the driver does it
    assert network.preset.short_side == 520  # torchvision's, as a .pth says nothing of itself
    assert network.classes[15] == "person"


def test_other_classes_need_a_list_of_as_many(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    for name in ("classifier.low_classifier", "classifier.high_classifier"):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = (
            tensors[f"{name}.weight"][:3].clone(),
            tensors[f"{name}.bias"][:3].clone(),
        )
    save_file(tensors, tmp_path / "three.safetensors")
    with pytest.raises(UsageError, match="tell 3 classes apart: name them with --classes"):
        _prepared_here(_request(tmp_path / "three.safetensors"))
    (tmp_path / "classes.txt").write_text("road\ncar\nsky\n")
    assert _prepared_here(_request(tmp_path / "three.safetensors", classes=str(tmp_path / "classes.txt"))).classes == (
        "road",
        "car",
        "sky",
    )
    (tmp_path / "classes.txt").write_text("road\ncar\n")
    with pytest.raises(UsageError, match="2 names, but the weights tell 3"):
        _prepared_here(_request(tmp_path / "three.safetensors", classes=str(tmp_path / "classes.txt")))


class _Bomb:
    """Makes this folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._folder),)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    bomb = _Bomb(tmp_path / "executed")
    torch.save({"classifier.weight": bomb}, tmp_path / "zipped.pth")
    for name, data in (("a.pth", pickle.dumps(bomb)), ("b.pth", b"garbage"), ("c.safetensors", b"\xff" * 64)):
        (tmp_path / name).write_bytes(data)
    for name in ("zipped.pth", "a.pth", "b.pth", "c.safetensors"):
        with pytest.raises(UsageError, match="not a"):
            _prepared_here(_request(tmp_path / name))
        assert not (tmp_path / "executed").exists()


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match=r"not the weights of lraspp_mobilenet_v3_large \(no classifier"):
        prepare(_request(tmp_path / "other.pth"))  # in a child: what it says comes back
    small = NetworkRequest(model="lraspp_mobilenet_v3_small", weights="bundled", engine="torch")
    with pytest.raises(UsageError) as raised:
        _prepared_here(small)
    assert str(raised.value) == f"--weights bundled.safetensors: not the weights of {small.model} but of {MODEL}: --model {MODEL}"


def test_unknown_networks() -> None:
    with pytest.raises(UsageError, match="--model resnet18: not one of lraspp_mobilenet_v3_large, "):
        prepare(NetworkRequest(model="resnet18", weights="bundled", engine="torch"))


def test_absent_files_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(NotReachable, match="no such file"):
        _prepared_here(_request(tmp_path / "absent.pth"))
    with pytest.raises(UsageError, match="COCO_WITH_VOC_LABELS_V1"):
        _prepared_here(_request("COCO_V7"))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it so
        pass


@pytest.fixture
def stand_in(tensors: dict[str, torch.Tensor], tmp_path: Path) -> Iterator[str]:
    """A file of the form of torchvision's release, on a local server; -> its URL."""
    folder = tmp_path / "served"
    folder.mkdir()
    torch.save({name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}, folder / "x")
    digest = hashlib.sha256((folder / "x").read_bytes()).hexdigest()[:8]
    (folder / "x").rename(folder / f"lraspp_mobilenet_v3_large-{digest}.pth")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/lraspp_mobilenet_v3_large-{digest}.pth"
    server.shutdown()
    server.server_close()


def test_torchvisions_enum_downloads_once_and_checks_the_digest(
    stand_in: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import dataclasses

    from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights as Enum

    member = Enum.COCO_WITH_VOC_LABELS_V1
    monkeypatch.setattr(member, "_value_", dataclasses.replace(member.value, url=stand_in))
    weights = load_weights(member.name, MODEL)
    assert weights.preset.short_side == 520
    assert weights.classes == tuple(member.meta["categories"])
    path = tmp_path / "torch" / "hub" / "checkpoints" / stand_in.rpartition("/")[2]
    assert weights.data == path.read_bytes()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="is damaged"):
        load_weights(member.name, MODEL)


def test_no_network_and_no_file_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """For real: this connects to nobody, as the proxy that it is told to use is not there."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(NotReachable, match=r"put lraspp_mobilenet_v3_large-\w+\.pth into .*--weights FILE.*--weights bundled"):
        _prepared_here(_request("COCO_WITH_VOC_LABELS_V1"))


def test_class_lists(tmp_path: Path) -> None:
    file = tmp_path / "classes"
    file.write_text(json.dumps(["a", "b"]))
    assert read_classes(str(file)) == ("a", "b")
    file.write_text("\n".join(map(str, range(300))))
    with pytest.raises(UsageError, match="300 names"):
        read_classes(str(file))
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError):
        read_classes(str(file))
    file.write_text("\n".join(f"class {number}" for number in range(100_000)))
    with pytest.raises(UsageError, match="more than 1 MiB"):
        read_classes(str(file))
    with pytest.raises(UsageError, match="no such file"):
        read_classes(str(tmp_path / "absent"))


def test_a_network_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(_request("bundled"))
    monkeypatch.setattr("pipeline.labels.prepare._make_in_child", None)  # would raise if it were made again
    assert prepare(_request("bundled")) == first


@pytest.mark.parametrize("uri", ["simplecache::file:///w.pth", "zip://w::/w.pth"])
def test_weights_and_classes_through_other_file_systems_are_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="another file system"):
        load_weights(uri, "lraspp_mobilenet_v3_large")
    with pytest.raises(UsageError, match="another file system"):
        read_classes(uri)
