"""Runs to verify: labelled once a session, copied for each test."""

import shutil
from pathlib import Path

import pytest

from tests.support.corpus import cut_in_body, photos, tar_bytes
from tests.support.labelled import label


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tar, one with a bad image, one that breaks off, one without images, and single images, one of them bad."""
    folder = tmp_path_factory.mktemp("source")
    pictures = photos(12)
    (folder / "a.tar").write_bytes(tar_bytes(pictures[:5]))
    (folder / "bad.tar").write_bytes(tar_bytes([*pictures[5:7], ("zz.jpg", b"no image")]))
    (folder / "cut.tar").write_bytes(cut_in_body(tar_bytes(pictures[:3]), 2))
    (folder / "none.tar").write_bytes(tar_bytes([("readme.txt", b"none")]))
    (folder / "single").mkdir()
    for name, data in [*pictures[7:11], ("0000.jpg", b"no image")]:
        (folder / "single" / name).write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def labelled(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labelled") / "out"
    label([source], out)
    return out


@pytest.fixture(scope="session")
def mapped(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With confidence maps, and a threshold that takes many pixels away."""
    out = tmp_path_factory.mktemp("mapped") / "out"
    label([source / "a.tar"], out, confidence_map=True, min_confidence=0.5)
    return out


@pytest.fixture
def out(labelled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled, tmp_path / "out"))


@pytest.fixture
def out_mapped(mapped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mapped, tmp_path / "out"))
