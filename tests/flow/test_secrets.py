"""The secrets of presigned inputs while a run is at work: with spans and who fetches, and nowhere in what Ray keeps."""

import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import ray

from tests.support.runs import read_rows, segment
from tests.support.tars import photos, tar_bytes

pytestmark = pytest.mark.usefixtures("local_ray")
CANARY = "canary-7f3e9d0c4b1a8e6f5d2c"
_LARGEST_BYTES = 600 << 20  # of a mapping that is looked through


class _Presigned(BaseHTTPRequestHandler):
    """Files for who knows the signature."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_HEAD(self) -> None:
        self._answer(b"", None)

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        wanted = re.findall(r"\d+", self.headers.get("Range") or "")
        first, last = (int(wanted[0]), int(wanted[1])) if wanted else (0, len(self.files[name]))
        self._answer(self.files[name][first : last + 1], f"bytes {first}-{last}/{len(self.files[name])}" if wanted else None)

    def _answer(self, body: bytes, content_range: str | None) -> None:
        name, _, query = self.path.partition("?")
        if query != f"X-Amz-Signature={CANARY}":
            self.send_error(403)
            return
        self.send_response(206 if content_range else 200)
        self.send_header("Content-Length", str(len(body) if self.command == "GET" else len(self.files[name.strip("/")])))
        self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def listed(tmp_path: Path) -> Iterator[Path]:
    """A list of two tars and five single images, all presigned."""
    _Presigned.files = {f"{name}.tar": tar_bytes(photos(20, first=100 * name)) for name in (1, 2)}
    _Presigned.files |= {f"{number}.jpg": data for number, (_, data) in enumerate(photos(5, first=300))}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Presigned)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "list.txt").write_text(
        "".join(f"http://127.0.0.1:{server.server_port}/{name}?X-Amz-Signature={CANARY}\n" for name in _Presigned.files)
    )
    yield tmp_path / "list.txt"
    server.shutdown()
    server.server_close()


def test_ray_keeps_no_secret(listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its control store nor the daemon of this node in memory (where spans are small), nor its session in files."""
    monkeypatch.setattr("pipeline.worker.cutting.SHORT_SHARD_BYTES", 0)  # the tars are cut: those who look into them need it, too
    outcome = segment(listed, tmp_path / "out")
    assert outcome.error is None
    assert len(read_rows(tmp_path / "out").masks) == 45
    assert _times_in_memory(os.getpid()) > 0  # this process knows it: what is looked for can be found
    kept = {process.name(): _times_in_memory(process.pid) for process in _daemons()}
    assert {"gcs_server", "raylet"} <= kept.keys()
    assert kept == dict.fromkeys(kept, 0)
    session = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[1]  # type: ignore[no-untyped-call]
    files = [file for file in session.rglob("*") if file.is_file() and not file.is_symlink()]
    assert any("raylet" in file.name for file in files)
    assert [file for file in files if CANARY.encode() in file.read_bytes()] == []


def _daemons() -> Iterator[psutil.Process]:
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name() in ("gcs_server", "raylet"):
                yield process
        except psutil.NoSuchProcess:  # a worker that has just ended
            continue


def _times_in_memory(pid: int) -> int:
    """How often the canary stands in what a process has mapped."""
    found = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            place, access = line.split()[:2]
            first, last = (int(edge, 16) for edge in place.split("-"))
            if "r" not in access or "[v" in line or last - first > _LARGEST_BYTES:
                continue
            memory.seek(first)
            try:
                found += memory.read(last - first).count(CANARY.encode())
            except OSError:  # of a device, or gone
                continue
    return found
