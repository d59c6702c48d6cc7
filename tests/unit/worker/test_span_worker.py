"""A worker without Ray: what it reads of a span that ends inside its shard."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import SegmentConfig
from pipeline.errors import ImageTooLarge
from pipeline.labels.labeller import Labeller, Resized
from pipeline.labels.prepare import prepare
from pipeline.listing.listing import Listing, list_inputs
from pipeline.model.engine import Prepared
from pipeline.model.prepare import NetworkRequest
from pipeline.model.zoo import DEFAULT_MODEL
from pipeline.output.footer import PartFooter
from pipeline.output.parts import PartName
from pipeline.output.remaining import remaining_spans
from pipeline.output.reports import PartReport
from pipeline.output.span import Span
from pipeline.plan.options import label_options, network_request, read_options
from pipeline.plan.plan import extend_plan
from pipeline.shards.range_file import CHUNK_BYTES
from pipeline.storage import retry, writable_store_for
from pipeline.storage.local import LocalStore
from pipeline.worker import span_worker as worker_module
from pipeline.worker.cutting import pieces
from pipeline.worker.span_worker import SegmentSpan, WorkerConfig
from tests.conftest import ROOT
from tests.support.counted import CountedRow, compared
from tests.support.images import encode, jpeg, scene
from tests.support.parquets import large_row_parquet
from tests.support.runs import parts_in, read_rows
from tests.support.tars import cut_in_body, photos, tar_bytes, zeroed_header

PART_IMAGES = 3


def _network() -> Prepared:
    return prepare(NetworkRequest(model=DEFAULT_MODEL, weights="bundled", engine="openvino", short_side=32))


def _worker(source: Path, out: Path, part_images: int = PART_IMAGES, **flags: Any) -> tuple[SegmentSpan, Span]:
    """And the one span that is all there is."""
    segment, (span,) = _worker_and_spans(source, out, part_images, **flags)
    return segment, span


def _worker_and_spans(
    source: Path, out: Path, part_images: int = PART_IMAGES, beats: int = 128, **flags: Any
) -> tuple[SegmentSpan, list[Span]]:
    config = SegmentConfig(
        input=(str(source),), output=str(out), weights="bundled", short_side=32, part_images=part_images, **flags
    )
    network, store = prepare(network_request(config)), writable_store_for(config.output)
    plan = extend_plan(store, config.output, None, list_inputs(config.input, Listing()), {})
    worker = WorkerConfig(
        output=config.output, fingerprint="0" * 64, part_images=part_images, read=read_options(config),
        labels=label_options(config, network), heartbeat_rows=beats,
    )  # fmt: skip
    return SegmentSpan(worker, network), list(remaining_spans(plan, {}, part_images=part_images, workers=1))


def test_a_span_is_read_to_its_end_and_one_image_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes(photos(20)))
    segment, whole = _worker(tmp_path / "in.tar", tmp_path / "out")
    read, real = 0, Labeller.read

    def counted(self: Labeller, data: bytes, name: str) -> Resized:
        nonlocal read
        read += 1
        return real(self, data, name)

    monkeypatch.setattr(Labeller, "read", counted)
    found = pieces(replace(whole, piece_bytes=1), read=segment._config.read, part_images=PART_IMAGES, output="")
    first = replace(whole, stop=9)
    (last,) = (replace(piece, stop=None) for piece in found if piece.first == 9)
    reports = list(segment(first))
    assert read == 9 + 1  # that it goes on says that the part before is not the last
    reports += segment(last)
    assert read == 20 + 1
    names = [report.part for report in reports]
    assert [(name.first, name.last) for name in names if name is not None] == [(at, at == 18) for at in range(0, 20, 3)]


def test_a_hole_between_parts_is_filled_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes(photos(9)))
    segment, whole = _worker(tmp_path / "in.tar", tmp_path / "out")
    reports = list(segment(whole))
    masks = tmp_path / "out" / "masks"
    before = {report.part: (masks / str(report.part)).read_bytes() for report in reports}
    first, second, _ = before
    (masks / str(second)).unlink()
    hole = replace(whole, first=3, stop=6, previous=first)
    assert [report.part for report in segment(hole)] == [second]
    assert (masks / str(second)).read_bytes() == before[second]


def test_two_parts_never_cover_one_index_however_two_attempts_saw_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forced: one attempt reads the whole tar; before it commits its second part, another meets a hole there, and is first."""
    tar, out = tmp_path / "in.tar", tmp_path / "out"
    whole = tar_bytes(photos(9))
    tar.write_bytes(whole)
    modified = tar.stat().st_mtime_ns
    segment, span = _worker(tar, out)
    other = SegmentSpan(segment._config, _network())
    real, raced = LocalStore.create, list[str]()

    def create(self: LocalStore, uri: str, data: bytes) -> str | None:
        if "-0000000003-" in uri and not raced:
            raced.append(uri)
            tar.write_bytes(zeroed_header(whole, 4))
            os.utime(tar, ns=(modified, modified))
            list(other(span))
            tar.write_bytes(whole)
            os.utime(tar, ns=(modified, modified))
        return real(self, uri, data)

    monkeypatch.setattr(LocalStore, "create", create)
    reports = list(segment(span))
    assert raced
    parts = parts_in(out)
    assert [(part.first, part.rows, part.last) for part in parts] == [(0, 3, False), (3, 2, True)]
    assert [report.committed for report in reports] == [True, False]
    (failures,) = (out / "failures").iterdir()
    assert failures.name == str(parts[1])
    assert pq.read_table(failures).column("error").to_pylist() == ["BrokenShard"]


def test_who_loses_a_part_keeps_to_the_failures_of_the_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loser sees no image that the winner saw, and must not write its failures over the winner's."""
    tar, out = tmp_path / "in.tar", tmp_path / "out"
    tar.write_bytes(tar_bytes([*photos(1), ("0002.jpg", b"no photograph")]))
    segment, span = _worker(tar, out)
    other = SegmentSpan(segment._config, _network())
    monkeypatch.setattr(Labeller, "read", lambda *_: (_ for _ in ()).throw(ImageTooLarge("as another attempt saw it")))
    real = LocalStore.create

    def create(self: LocalStore, uri: str, data: bytes) -> str | None:
        monkeypatch.undo()
        list(other(span))
        return real(self, uri, data)

    monkeypatch.setattr(LocalStore, "create", create)
    assert [report.committed for report in segment(span)] == [False]
    (failures,) = (out / "failures").iterdir()
    assert pq.read_table(failures).column("error").to_pylist() == ["CorruptImage"]


def test_a_shard_that_is_gone_with_all_its_folder_stays_open(tmp_path: Path) -> None:
    """It may be a disk that is not mounted on this node: nothing is committed."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(tar_bytes(photos(3)))
    segment, span = _worker(tmp_path / "in" / "a.tar", tmp_path / "out")
    (tmp_path / "in" / "a.tar").rename(tmp_path / "elsewhere.tar")
    (report,) = segment(span)
    assert (report.error_class, report.part) == ("StorageError", None)
    assert "nothing else can be read there now" in str(report.error)
    assert parts_in(tmp_path / "out") == []


def test_a_shard_that_is_gone_beside_others_is_broken(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(tar_bytes(photos(3)))
    (tmp_path / "in" / "b.tar").write_bytes(tar_bytes(photos(3)))
    segment, span = _worker(tmp_path / "in" / "a.tar", tmp_path / "out")
    (tmp_path / "in" / "a.tar").unlink()
    (report,) = segment(span)
    assert (report.error, _failures(report)) == (None, 1)
    assert [(part.first, part.rows, part.last) for part in parts_in(tmp_path / "out")] == [(0, 1, True)]


def _folder_of(tmp_path: Path, kind: str) -> list[Path]:
    (tmp_path / "in" / kind).mkdir(parents=True)
    files = [tmp_path / "in" / kind / f"{number}.{'tar' if kind == 'tar' else 'jpg'}" for number in range(40)]
    for file in files:
        file.write_bytes(tar_bytes(photos(1)) if kind == "tar" else jpeg())
    return files


@pytest.mark.parametrize("kind", ["tar", "image"])
def test_a_folder_where_the_disk_is_not_mounted_leaves_all_open_whatever_else_lies_there(tmp_path: Path, kind: str) -> None:
    files = _folder_of(tmp_path, kind)
    segment, spans = _worker_and_spans(tmp_path / "in", tmp_path / "out")
    for file in files:
        file.unlink()
    (tmp_path / "in" / kind / ".NOT_MOUNTED").write_bytes(b"no disk")
    (tmp_path / "in" / kind / "1.jpg.part").write_bytes(b"a sync that is under way")
    for span in spans[:3]:
        (report,) = segment(span)
        assert (report.error_class, report.part) == ("StorageError", None)
    files[-1].write_bytes(b"something else of that name")  # is not what was planned
    (report,) = segment(spans[0])
    assert (report.error_class, report.part) == ("StorageError", None)
    assert parts_in(tmp_path / "out") == []


def test_what_was_removed_from_a_folder_of_its_own_is_a_failure_beside_planned_files_of_its_disk(tmp_path: Path) -> None:
    """Its folder holds another file, so that no disk is to be mounted there; a hidden one alone says nothing."""
    for number in range(4):
        (tmp_path / "in" / f"{number}").mkdir(parents=True)
        (tmp_path / "in" / f"{number}" / "rgb.jpg").write_bytes(jpeg())
        (tmp_path / "in" / f"{number}" / ".note").write_bytes(b"")
    segment, spans = _worker_and_spans(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "0" / "rgb.jpg").unlink()
    (report,) = segment(spans[0])
    assert (report.error_class, report.part) == ("StorageError", None)
    (tmp_path / "in" / "0" / "meta.json").write_bytes(b"{}")
    (report,) = segment(spans[0])
    assert (report.error, _failures(report)) == (None, 1)


@pytest.mark.parametrize("kind", ["tar", "image"])
def test_what_was_removed_is_a_failure_beside_planned_files_of_its_folder(tmp_path: Path, kind: str) -> None:
    """Though its worker is a new one, and of a thousand others that are planned few lie in that folder."""
    files = _folder_of(tmp_path, kind)
    (tmp_path / "in" / "other").mkdir()
    for number in range(1000):
        os.link(files[0], tmp_path / "in" / "other" / f"{number}{files[0].suffix}")
    segment, spans = _worker_and_spans(tmp_path / "in", tmp_path / "out", part_images=20)
    span = spans[0] if kind == "image" else next(span for span in spans if span.source.uri == str(files[0]))
    assert span.first == 0
    for file in files[:-1]:
        file.unlink()
    report = next(report for report in segment(span) if report.part is not None)
    assert _failures(report) == (20 if kind == "image" else 1)


class _Web(BaseHTTPRequestHandler):
    """What is in `there`, 404 for the rest."""

    there: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        data = self.there.get(self.path)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data or b"")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    _Web.there.clear()


def test_a_resume_with_nothing_left_but_dead_links_comes_to_its_end(tmp_path: Path, web: str) -> None:
    """The worker is a new one, and has read nothing of that host."""
    _Web.there |= {f"/{name}": data for name, data in photos(PART_IMAGES)}
    names = [name for name, _ in photos(PART_IMAGES)] + [f"dead-{number}.jpg" for number in range(PART_IMAGES)]
    (tmp_path / "list.txt").write_text("\n".join(f"{web}/{name}" for name in names))
    segment, spans = _worker_and_spans(tmp_path / "list.txt", tmp_path / "out")
    assert [(report.error, _failures(report)) for report in segment(spans[-1])] == [(None, PART_IMAGES)]
    assert {row["error"] for row in read_rows(tmp_path / "out").failures} == {"MissingImage"}


def test_dead_links_and_nothing_else_stay_open(tmp_path: Path, web: str) -> None:
    (tmp_path / "list.txt").write_text("\n".join(f"{web}/dead-{number}.jpg" for number in range(4)))
    segment, spans = _worker_and_spans(tmp_path / "list.txt", tmp_path / "out")
    (report,) = segment(spans[0])
    assert (report.error_class, report.part) == ("StorageError", None)


def test_a_listed_shard_whose_host_is_dead_is_broken_and_does_not_end_the_listing(
    tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.0)
    _Web.there |= {"/a.jpg": photos(1)[0][1]}
    (tmp_path / "list.txt").write_text(f"{web}/a.jpg\nhttp://no-such-host.invalid/b.tar")
    segment, spans = _worker_and_spans(tmp_path / "list.txt", tmp_path / "out")
    of = {span.source.kind: span for span in spans}
    assert [(report.error, _failures(report)) for kind in ("image", "tar") for report in segment(of[kind])] == [
        (None, 0),
        (None, 1),
    ]
    (failure,) = read_rows(tmp_path / "out").failures
    assert (failure["error"], failure["message"]) == ("BrokenShard", "the shard cannot be reached: ClientConnectorDNSError")


def test_a_shard_that_was_there_when_it_was_listed_waits_for_its_host(
    tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.0)
    _Web.there |= {"/a.jpg": photos(1)[0][1], "/b.tar": tar_bytes(photos(2))}
    (tmp_path / "list.txt").write_text(f"{web}/a.jpg\n{web}/b.tar")
    segment, spans = _worker_and_spans(tmp_path / "list.txt", tmp_path / "out")
    of = {span.source.kind: span for span in spans}
    assert [report.error for report in segment(of["image"])] == [None]
    away = replace(of["tar"], source=replace(of["tar"].source, secret="http://no-such-host.invalid/b.tar"))
    assert [report.error_class for report in segment(away)] == ["HostUnreachable"]


def test_pieces_of_a_shard_that_is_gone_are_one_chain(tmp_path: Path) -> None:
    """Each piece meets the break, and only the last one ends the shard; what is made again later has the right indices."""
    (tmp_path / "in").mkdir()
    tar = tmp_path / "in" / "a.tar"
    whole = tar_bytes(photos(9))
    tar.write_bytes(whole)
    (tmp_path / "in" / "b.tar").write_bytes(whole)
    status = tar.stat()
    segment, span = _worker(tar, tmp_path / "out")
    found = pieces(replace(span, piece_bytes=1), read=segment._config.read, part_images=PART_IMAGES, output="")
    first, second = next(found), replace(next(found), stop=None)
    assert (first.first, first.stop, second.first) == (0, 3, 3)
    tar.unlink()
    assert [_failures(report) for piece in (first, second) for report in segment(piece)] == [3, 1]
    parts = parts_in(tmp_path / "out")
    assert [(part.first, part.rows, part.last) for part in parts] == [(0, 3, False), (3, 1, True)]
    (tmp_path / "out" / "masks" / str(parts[1])).unlink()
    tar.write_bytes(whole)
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [report.rows for report in segment(replace(span, first=3, previous=parts[0]))] == [3, 3]
    rows = read_rows(tmp_path / "out").masks
    assert [(row["index"], row["member"]) for row in rows] == [(index, f"{index + 1:04}.jpg") for index in range(3, 9)]


def test_a_camera_raw_is_no_photograph(tmp_path: Path) -> None:
    """Its first image is a thumbnail: the name tells, or a tag."""
    dng = encode(scene(), "TIFF", tiffinfo={50706: bytes((1, 4, 0, 0))})
    members = [("0.jpg", jpeg()), ("1.nef", encode(scene(), "TIFF")), ("2.jpg", dng), ("3.tif", encode(scene(), "TIFF"))]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    segment, whole = _worker(tmp_path / "in.tar", tmp_path / "out")
    assert [report.error for report in segment(whole)] == [None, None]
    failures = read_rows(tmp_path / "out").failures
    assert [(row["image_id"], row["error"]) for row in failures] == [("1", "UnsupportedFormat"), ("2", "UnsupportedFormat")]


_SHORT_OF_MEMORY = """
import json, resource, sys
from pathlib import Path
from pipeline.quarantine import unpack_child as apart
from pipeline.worker import span_worker as worker
from tests.support.memory import data_bytes
from tests.unit.worker.test_span_worker import _worker
apart.PAGES_BYTES = 512 << 20
worker.PAUSE_S = 0.0
segment, whole = _worker(Path(sys.argv[1]), Path(sys.argv[2]), max_source_pixels=1 << 20)
said = []
for most in (100 << 20, None):
    limit = resource.RLIM_INFINITY if most is None else data_bytes() + most
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    said.append([[report.rows, report.error_class, report.error] for report in segment(whole)])
print(json.dumps(said))
"""


def test_a_row_that_takes_all_memory_leaves_its_part_open_and_fails_where_it_is_alone(tmp_path: Path) -> None:
    """What is short of memory may be the node. A process with nothing else to do, and a limit, says whether it is the row."""
    (tmp_path / "in.parquet").write_bytes(large_row_parquet(256 << 20))
    command = [sys.executable, "-c", _SHORT_OF_MEMORY, str(tmp_path / "in.parquet"), str(tmp_path / "out")]
    # Arrow's other pool now and then ends the process instead, which is the case of `test_poison`.
    environment = os.environ | {"TMPDIR": str(tmp_path), "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    short, alone = json.loads(done.stdout)
    assert short == [[0, "Incomplete", f"a worker on {socket.gethostname()} ran out of memory"]]
    assert alone == [[3, None, None], [2, None, None]]
    (failure,) = read_rows(tmp_path / "out").failures
    assert (failure["index"], failure["error"]) == (2, "DamagedRowGroup")
    assert failure["message"] == "row group 0 is damaged: it takes more than 542 MiB of memory"
    left = list((tmp_path / f"maskfleet-{os.getuid()}" / "begun").rglob("*.images"))
    assert left == [], "what was left behind is settled"


_ONE_LIFE = """
import json, resource, sys
from pathlib import Path
from pipeline.worker import span_worker as worker
from tests.support.images import SEED, jpeg
from tests.support.memory import data_bytes
from tests.unit.worker.test_span_worker import _worker
worker.PAUSE_S = 0.0
segment, whole = _worker(Path(sys.argv[1]), Path(sys.argv[2]), part_images=8)
segment._labeller.label(segment._labeller.read(jpeg(SEED)))  # the network has its memory, and the images that come next have not
if room := int(sys.argv[3]):
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + room, resource.RLIM_INFINITY))
print(json.dumps([[report.rows, report.error_class] for report in segment(whole)]), flush=True)
"""


def _one_life(folder: Path, room: int = 0) -> list[list[Any]] | None:
    """What a new worker says of a tar, with so many bytes of memory on top of what it has; None: it died."""
    command = [sys.executable, "-c", _ONE_LIFE, str(folder / "in.tar"), str(folder / "out"), str(room)]
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    said: list[list[Any]] | None = json.loads(done.stdout) if done.stdout else None
    return said


def _left_behind(folder: Path) -> list[Path]:
    return list((folder / f"maskfleet-{os.getuid()}" / "begun").rglob("*.images"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_memory_that_is_short_for_a_while_fails_no_image(tmp_path: Path, kind: str) -> None:
    large = encode(scene().resize((2800, 2000)), kind)
    (tmp_path / "in.tar").write_bytes(tar_bytes([*photos(3), (f"0009.{kind.lower()}", large)]))
    assert _one_life(tmp_path, 24 << 20) in (None, [[0, "Incomplete"]])  # a thread takes 8 of them
    assert len(_left_behind(tmp_path)) == 1
    assert _one_life(tmp_path) == [[4, None]]
    rows = read_rows(tmp_path / "out")
    assert (len(rows.masks), rows.failures) == (4, [])
    assert _left_behind(tmp_path) == []


def test_images_that_never_fit_into_memory_fail_together(tmp_path: Path) -> None:
    """Each of them alone has as much memory as the worker: else a part with three would need as many passes."""
    large = encode(Image.new("L", (12_000, 12_000)), "PNG")
    members = [*photos(2), *((f"{number:04d}.png", large) for number in (10, 11, 12)), *photos(2, first=20)]
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    lives = [_one_life(tmp_path, 400 << 20) for _ in range(2)]
    assert lives == [[[0, "Incomplete"]], [[7, None]]]
    rows = read_rows(tmp_path / "out")
    assert [(row["index"], row["error"]) for row in rows.failures] == [(at, "ImageTooLarge") for at in (2, 3, 4)]
    assert {row["message"] for row in rows.failures} == {"it does not fit into memory"}
    assert _left_behind(tmp_path) == []


_GETS_NO_MEMORY = """
import sys
from pathlib import Path
from tests.unit.worker.test_span_worker import _worker
segment, whole = _worker(Path(sys.argv[1]), Path(sys.argv[2]))
def short(image):
    raise MemoryError("OpenVINO made no logits")
segment._labeller.engine.logits = short
list(segment(whole))
"""


def test_a_worker_whose_network_got_no_memory_ends_at_once(tmp_path: Path) -> None:
    """What OpenVINO did to its memory nobody knows. The image is suspect then, and is labelled alone."""
    (tmp_path / "in.tar").write_bytes(tar_bytes(photos(3)))
    command = [sys.executable, "-c", _GETS_NO_MEMORY, str(tmp_path / "in.tar"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(_left_behind(tmp_path)) == 1
    assert _one_life(tmp_path) == [[3, None]]
    assert (len(read_rows(tmp_path / "out").masks), _left_behind(tmp_path)) == (3, [])


def test_a_node_whose_disk_is_full_leaves_its_spans_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(worker_module.TRACE, "/dev/full")
    monkeypatch.setattr(worker_module, "PAUSE_S", 0.5)
    (tmp_path / "in.tar").write_bytes(tar_bytes(photos(2)))
    segment, whole = _worker(tmp_path / "in.tar", tmp_path / "out")
    began = time.monotonic()
    (report,) = segment(whole)
    assert report.error_class == "Incomplete"
    assert report.error == f"a worker on {socket.gethostname()} cannot go on: OSError: [Errno 28] No space left on device"
    assert time.monotonic() - began >= 0.5, "else it would have the spans of all others soon"
    monkeypatch.delenv(worker_module.TRACE)
    assert [report.error for report in segment(whole)] == [None]


_NODE_LACKS = """
import json, resource, sys, threading
from pathlib import Path
from pipeline.worker import span_worker as worker
from tests.support.memory import data_bytes
from tests.unit.worker.test_span_worker import _worker
worker.PAUSE_S = 0.0
segment, whole = _worker(Path(sys.argv[1]), Path(sys.argv[2]))
threading.stack_size(1 << 30)
said = []
for kind, limit in ((resource.RLIMIT_NOFILE, 4), (resource.RLIMIT_DATA, data_bytes() + (256 << 20))):
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, before[1]))
    reports = list(segment(whole))
    resource.setrlimit(kind, before)
    said += [[report.error_class, report.error] for report in reports]
print(json.dumps(said))
"""


def test_a_node_without_files_or_threads_leaves_its_spans_to_others(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes(photos(2)))
    command = [sys.executable, "-c", _NODE_LACKS, str(tmp_path / "in.tar"), str(tmp_path / "out")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    (files, threads) = json.loads(done.stdout)
    assert files[0] == threads[0] == "Incomplete"
    assert "Too many open files" in files[1]
    assert threads[1] == f"a worker on {socket.gethostname()} cannot go on: RuntimeError: can't start new thread"
    assert _left_behind(tmp_path) == []


def test_no_image_lies_in_memory_beside_the_next(tmp_path: Path) -> None:
    size = 24 << 20
    noise = os.urandom(size)
    (tmp_path / "in.tar").write_bytes(tar_bytes([(f"{number}.jpg", noise) for number in range(6)]))
    del noise
    segment, whole = _worker(tmp_path / "in.tar", tmp_path / "out")
    tracemalloc.start()
    assert [report.error for report in segment(whole)] == [None, None]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * size + 2 * CHUNK_BYTES + (4 << 20)  # one of them, in pieces and whole, and the chunks that it comes in


@pytest.mark.parametrize(("images", "beats"), [(7, [2, 4]), (9, [2, 4, 2]), (4, [2])])
def test_a_part_in_hand_is_reported_by_count_and_the_same_if_it_was_there(tmp_path: Path, images: int, beats: list[int]) -> None:
    """What a dead worker yielded is dropped by position when another repeats it: the parts must stand where they stood."""
    (tmp_path / "in.tar").write_bytes(tar_bytes([*photos(images - 1), ("bad.jpg", b"no image")]))
    segment, whole = _worker(tmp_path / "in.tar", tmp_path / "out", part_images=5, beats=2)
    first, again = list(segment(whole)), list(segment(whole))
    assert [report.in_hand for report in first if report.part is None] == beats
    assert all(report.error is None for report in first)
    assert [(report.part, report.in_hand, report.rows) for report in again] == [
        (report.part, report.in_hand, report.rows) for report in first
    ]
    assert not any(report.committed for report in again)


def test_a_break_is_reported_the_same_if_it_was_there(tmp_path: Path) -> None:
    for name, data in (("none", cut_in_body(tar_bytes(photos(1)), 0)), ("some", cut_in_body(tar_bytes(photos(9)), 7))):
        (tmp_path / f"{name}.tar").write_bytes(data)
        segment, whole = _worker(tmp_path / f"{name}.tar", tmp_path / name, part_images=5, beats=1)
        first, again = list(segment(whole)), list(segment(whole))
        assert [(report.part, report.in_hand) for report in again] == [(report.part, report.in_hand) for report in first]
        assert {report.in_hand for report in first} == ({0} if name == "none" else {0, 1, 2, 3, 4})


def test_rows_that_are_superseded_count_like_others(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, data in photos(9):
        (tmp_path / "in" / name).write_bytes(data)
    segment, whole = _worker(tmp_path / "in", tmp_path / "out", part_images=9, beats=2)
    span = replace(whole, superseded=(1, 2, 3, 4, 8))
    first, again = list(segment(span)), list(segment(span))
    assert [report.in_hand for report in first] == [report.in_hand for report in again] == [2, 4, 6, 8, 0]


def test_a_row_is_not_compared_with_all_that_are_superseded(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, data in photos(200):
        (tmp_path / "in" / name).write_bytes(data)
    segment, whole = _worker(tmp_path / "in", tmp_path / "out", part_images=200)
    span = replace(whole, superseded=tuple(CountedRow(row) for row in range(199)))
    compared.clear()
    (report,) = (report for report in segment(span) if report.part is not None)
    assert (report.error, report.rows, report.inferred) == (None, 200, 1)
    assert compared["rows"] <= 4 * 200


def test_a_bug_is_told_without_the_secret_of_its_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes(photos(1)))
    segment, whole = _worker(tmp_path / "in.tar", tmp_path / "out")
    secret = "https://host/a.tar?X-Amz-Signature=secret"

    def broken(uri: str) -> None:
        raise LookupError(f"no way to {uri}")

    monkeypatch.setattr("pipeline.worker.reading.store_for", broken)
    (report,) = segment(replace(whole, source=replace(whole.source, secret=secret)))
    assert report.error_class == "Bug"
    assert "no way to https://host/a.tar" in str(report.error)
    assert "secret" not in str(report.error).replace("without_secrets", "")


@pytest.mark.parametrize("images", [9, 30])
def test_in_runs_of_format_1_the_folder_is_not_listed_for_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes(photos(images)))
    segment, span = _worker(tmp_path / "in.tar", tmp_path / "out")
    old = SegmentSpan(replace(segment._config, plan_format=1), _network())
    listings, real = [], os.listdir

    def listdir(folder: str) -> list[str]:
        listings.append(folder)
        return real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    assert len(list(old(span))) == images // PART_IMAGES
    assert listings.count(str(tmp_path / "out" / "masks")) <= 2  # before it is there, and after


def test_in_runs_of_format_1_parts_of_both_kinds_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes(photos(9)))
    segment, span = _worker(tmp_path / "in.tar", tmp_path / "out")
    reports = list(segment(span))
    first, *_ = parts_in(tmp_path / "out")
    masks = tmp_path / "out" / "masks"
    (masks / str(first)).rename(masks / str(replace(first, max_rows=0)))  # as an older version has named it
    monkeypatch.setattr("pipeline.worker.span_worker.read_footer", lambda _store, _out, name: _footer_of(reports, name))
    old = SegmentSpan(replace(segment._config, plan_format=1), _network())
    assert [(report.part, report.committed) for report in old(span)] == [
        (replace(first, max_rows=0), False), (reports[1].part, False), (reports[2].part, False)
    ]  # fmt: skip


def _footer_of(reports: list[PartReport], name: PartName) -> PartFooter:
    (found,) = (report.footer for report in reports if report.part is not None and report.part.first == name.first)
    assert found is not None
    return found


def _failures(report: PartReport) -> int:
    return 0 if report.footer is None else len(report.footer.failures)
