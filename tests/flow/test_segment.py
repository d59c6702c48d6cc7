"""The job on a real local Ray: whole runs, resumed runs, runs beside each other."""

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest

from pipeline.driver.attempt import Attempt, Outcome
from pipeline.driver.planning import Hooks, make_plan
from pipeline.driver.progress import Progress
from pipeline.driver.rounds import RoundFailed
from pipeline.errors import BudgetExceeded, Bug, NotReachable, RunMismatch, ShardChanged, UsageError
from pipeline.labels.prepare import prepare
from pipeline.output.reports import PartReport
from pipeline.output.span import Span
from pipeline.plan.options import network_request
from pipeline.plan.plan import Plan
from pipeline.schema import masks_schema
from pipeline.verify.verify import verify
from tests.support.interface import RUN_JSON, run_json_keys
from tests.support.runs import part_files, parts_in, read_rows, segment, write_tars
from tests.support.tars import photos, tar_bytes

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Path, Path]:
    """Input and output of an undisturbed run: 3 shards of 10 images."""
    folder = tmp_path_factory.mktemp("whole")
    source, out = write_tars(folder / "in", 3, 10), folder / "out"
    outcome = segment(source, out, workers=2)
    assert outcome.error is None
    return source, out


def test_every_image_is_labelled_once(whole: tuple[Path, Path]) -> None:
    source, out = whole
    rows = read_rows(out)
    assert rows.keys == [(str(source / f"shard-{shard:03d}.tar"), index) for shard in range(3) for index in range(10)]
    assert rows.failures == []
    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "complete"
    assert run["counts"] == {"images": 30, "masks": 30, "failures": 0, "broken_shards": 0, "inferred": 30, "skipped": 0}
    assert run_json_keys(run) == RUN_JSON


def test_parts_have_the_schema_and_names_of_the_contract(whole: tuple[Path, Path]) -> None:
    _, out = whole
    for file in (out / "masks").iterdir():
        assert pq.read_schema(file).remove_metadata().equals(masks_schema().remove_metadata())
    parts = parts_in(out)
    assert sorted(part.rows for part in parts) == [2] * 3 + [4] * 6
    assert sum(part.last for part in parts) == 3
    assert all(str(part).endswith("-max4.parquet") for part in parts)


def test_a_rerun_infers_nothing(whole: tuple[Path, Path]) -> None:
    source, out = whole
    before = part_files(out)
    outcome = segment(source, out)
    assert outcome.run["counts"]["inferred"] == 0
    assert outcome.run["counts"]["skipped"] == outcome.run["counts"]["images"] == 30
    assert part_files(out) == before


def test_the_number_of_workers_changes_nothing(whole: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = whole
    outcome = segment(source, tmp_path / "out", workers=1)
    assert part_files(tmp_path / "out") == part_files(out)
    assert outcome.run["labels_digest"] == json.loads((out / "run.json").read_text())["labels_digest"]


def test_missing_parts_are_made_again_and_only_they(
    whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = whole
    segment(source, tmp_path / "out")
    parts = parts_in(tmp_path / "out")
    lost = [parts[0], parts[4], parts[8]]  # a first, a middle and a last one
    for name in lost:
        (tmp_path / "out" / "masks" / str(name)).unlink()
    outcome = segment(source, tmp_path / "out")
    assert outcome.run["counts"]["inferred"] == sum(name.rows for name in lost)
    assert part_files(tmp_path / "out") == part_files(out)


def test_other_settings_are_refused_with_the_difference_named(whole: tuple[Path, Path]) -> None:
    source, out = whole
    with pytest.raises(RunMismatch, match="short_side 64 there, 80 here"):
        segment(source, out, short_side=80)
    with pytest.raises(RunMismatch, match="part_images 4 there, 5 here"):
        segment(source, out, part_images=5)
    with pytest.raises(RunMismatch, match=r"min_confidence 0.0 there, 0.5 here"):
        segment(source, out, min_confidence=0.5)


def test_new_shards_are_added_and_old_ones_stay(tmp_path: Path) -> None:
    source, out = write_tars(tmp_path / "in", 1, 5), tmp_path / "out"
    segment(source, out)
    before = part_files(out)
    write_tars(source, 2, 5, first=1)
    outcome = segment(source, out)
    assert outcome.run["counts"] | {"masks": 15} == outcome.run["counts"]
    assert outcome.run["counts"]["inferred"] == 10
    assert before.items() <= part_files(out).items()
    assert sorted(file.name for file in (out / "plan").iterdir()) == ["00000.parquet", "00001.parquet"]


def test_a_changed_shard_is_refused_and_relabelled_on_request(tmp_path: Path) -> None:
    source, out = write_tars(tmp_path / "in", 2, 5), tmp_path / "out"
    segment(source, out)
    changed = source / "shard-001.tar"
    changed.write_bytes(tar_bytes(photos(3, first=90)))
    with pytest.raises(ShardChanged, match=r"shard-001\.tar.*--relabel-changed"):
        segment(source, out)
    outcome = segment(source, out, relabel_changed=True)
    assert outcome.error is None
    assert outcome.run["counts"]["images"] == 8
    assert [index for shard, index in read_rows(out).keys if shard == str(changed)] == [0, 1, 2]


def test_a_changed_single_image_is_relabelled_and_its_old_row_is_gone(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name, data in photos(6):
        (source / name).write_bytes(data)
    segment(source, out)
    victim = sorted(source.iterdir())[1]
    victim.write_bytes(photos(1, first=77)[0][1])
    with pytest.raises(ShardChanged, match=victim.name):
        segment(source, out)
    outcome = segment(source, out, relabel_changed=True)
    assert outcome.error is None
    assert read_rows(out).keys == [(str(file), 0) for file in sorted(source.iterdir())]
    assert outcome.run["counts"]["inferred"] == 4  # three neighbours in its part, and itself
    assert segment(source, out).run["counts"]["inferred"] == 0


def test_limit_takes_whole_parts_and_a_later_run_goes_on(tmp_path: Path) -> None:
    source, out = write_tars(tmp_path / "in", 4, 10), tmp_path / "out"
    limited = segment(source, out, limit=8, workers=2)
    assert limited.error is None
    assert limited.run["state"] == "incomplete"
    assert 8 <= limited.run["counts"]["images"] <= 8 + 2 * 4
    assert segment(source, out, limit=8).run["counts"]["inferred"] == 0
    rest = segment(source, out)
    assert rest.run["state"] == "complete"
    assert rest.run["counts"]["images"] == 40
    assert rest.run["counts"]["inferred"] == 40 - limited.run["counts"]["images"]


def test_redo_labels_again_the_parts_with_such_failures(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    listed = source / "list.txt"
    for name, data in photos(6):
        (source / name).write_bytes(data)
    names = sorted(file.name for file in source.glob("*.jpg"))
    (source / names[5]).rename(source / "later")
    listed.write_text("\n".join(names))
    outcome = segment(listed, out, failure_budget=1)
    assert [row["error"] for row in read_rows(out).failures] == ["MissingImage"]
    (source / "later").rename(source / names[5])
    assert segment(listed, out, failure_budget=1).run["counts"]["inferred"] == 0  # a failure is final
    outcome = segment(listed, out, redo="MissingImage")
    assert outcome.error is None
    assert outcome.run["counts"] == {"images": 6, "masks": 6, "failures": 0, "broken_shards": 0, "inferred": 2, "skipped": 4}


def test_few_big_tars_are_cut_for_many_workers(whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.driver import ray_data as flow

    source, out = whole
    marked: list[int] = []
    real = flow.label

    def watched(spans: list[Span], *arguments: Any) -> Iterator[PartReport]:
        marked.append(sum(span.piece_bytes is not None for span in spans))
        yield from real(spans, *arguments)

    monkeypatch.setattr("pipeline.worker.cutting.SHORT_SHARD_BYTES", 0)
    monkeypatch.setattr(flow, "label", watched)
    segment(source, tmp_path / "out", workers=2)
    assert marked == [2]  # the pieces of two keep two workers busy while one labels the third
    assert part_files(tmp_path / "out") == part_files(out)


def test_a_limit_is_shared_out_among_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tar of 12 parts, of which 8 are wanted: a piece a part, and no part more."""
    monkeypatch.setattr("pipeline.worker.cutting.SHORT_SHARD_BYTES", 0)
    outcome = segment(write_tars(tmp_path / "in", 1, 48), tmp_path / "out", limit=32, workers=2)
    assert outcome.error is None
    assert outcome.run["counts"]["images"] == 32
    assert sorted(int(name.split("-")[1]) for name in part_files(tmp_path / "out")) == list(range(0, 32, 4))


def test_a_bug_ends_the_wave_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.driver import ray_data as flow

    real, ended = flow.label, list[int]()

    def with_a_bug(*arguments: Any) -> Iterator[PartReport]:
        taken = 0
        try:
            for report in real(*arguments):
                yield report
                taken += 1
                yield PartReport(error="Traceback \u2026", error_class="Bug")
                taken += 1
        finally:
            ended.append(taken)

    monkeypatch.setattr(flow, "label", with_a_bug)
    outcome = segment(write_tars(tmp_path / "in", 2, 200), tmp_path / "out", workers=2)
    assert isinstance(outcome.error, Bug)
    assert ended == [1]  # the second report was its last
    parts = len(part_files(tmp_path / "out"))
    time.sleep(2)
    assert len(part_files(tmp_path / "out")) == parts < 100  # and no worker goes on


class _Holding(BaseHTTPRequestHandler):
    """One tar, whose bytes come only when `parts` others are committed in `out`; after a minute they come anyway."""

    data: ClassVar[bytes]
    out: ClassVar[Path]
    parts: ClassVar[int]
    held: ClassVar[list[bool]] = []

    def do_HEAD(self) -> None:
        self._answer(200, len(self.data), "none")

    def do_GET(self) -> None:
        first, last = re.findall(r"\d+", self.headers["Range"])
        deadline = time.monotonic() + 60
        while len(part_files(self.out)) < self.parts and time.monotonic() < deadline:
            time.sleep(0.05)
        self.held.append(time.monotonic() < deadline)
        body = self.data[int(first) : int(last) + 1]
        self._answer(206, len(body), f"bytes {first}-{last}/{len(self.data)}")
        self.wfile.write(body)

    def _answer(self, status: int, length: int, content_range: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def test_behind_a_straggler_waits_one_other_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve tars; the longest, which goes first, does not come before all of the others but one are committed."""
    from pipeline.driver import ray_data as flow

    source, out = write_tars(tmp_path / "in", 11, 4), tmp_path / "out"
    _Holding.data, _Holding.out, _Holding.parts = tar_bytes(photos(9, first=900)), out, 10
    monkeypatch.setattr(flow, "BLOCKS", 3)  # and some by a feed
    monkeypatch.setattr(flow, "CHUNK_SPANS", 4)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Holding)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        outcome = segment([source, f"http://127.0.0.1:{server.server_port}/straggler.tar"], out, workers=2)
    finally:
        server.shutdown()
        server.server_close()
    assert outcome.error is None
    assert outcome.run["counts"]["images"] == 11 * 4 + 9
    assert _Holding.held
    assert all(_Holding.held)


def test_a_run_in_waves_labels_the_same(whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.driver import ray_data as flow

    source, out = whole
    waves: list[int] = []
    real = flow.label

    def watched(spans: list[object], *arguments: object) -> Iterator[object]:
        waves.append(len(spans))
        yield from real(spans, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("pipeline.output.remaining.WAVE_SPANS", 2)
    monkeypatch.setattr("pipeline.output.remaining.WAVE_SPANS_A_WORKER", 1)
    monkeypatch.setattr(flow, "label", watched)
    assert segment(source, tmp_path / "out").error is None
    assert waves == [2, 1]
    assert part_files(tmp_path / "out") == part_files(out)


def test_an_attempt_that_ends_last_keeps_what_another_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_tars(tmp_path / "in", 2, 4), tmp_path / "out"
    real = Attempt._label

    def label_beside_another(self: Attempt, plan: Plan) -> str | None:
        reason = real(self, plan)
        monkeypatch.setattr(Attempt, "_label", real)
        write_tars(source, 1, 4, first=7)
        assert segment(source, out).run["counts"]["images"] == 12  # the other, from its start to its end
        return reason

    monkeypatch.setattr(Attempt, "_label", label_beside_another)
    outcome = segment(source, out)
    assert outcome.error is None
    assert outcome.run["counts"]["images"] == 12
    assert verify(str(out), deep=True).exit_code == 0


@pytest.mark.parametrize("ended", [True, False])
def test_what_another_attempt_listed_is_its_to_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    source, out = write_tars(tmp_path / "in", 2, 4), tmp_path / "out"
    real = Attempt._sum_up

    def sum_up_beside_another(self: Attempt, plan: Plan, reason: str | None) -> Outcome:
        monkeypatch.setattr(Attempt, "_sum_up", real)
        write_tars(source, 1, 4, first=7)
        other = Attempt(self.config, Progress())
        make_plan(self.config, other.store, other.listing, lambda: prepare(network_request(self.config)), Hooks())
        if ended:
            segment(source, out)
        return real(self, plan, reason)

    monkeypatch.setattr(Attempt, "_sum_up", sum_up_beside_another)
    outcome = segment(source, out)
    assert outcome.error is None
    assert outcome.run["state"] == ("complete" if ended else "incomplete")
    assert verify(str(out)).exit_code == (0 if ended else 5)
    assert segment(source, out).run["state"] == "complete"
    assert verify(str(out), deep=True).exit_code == 0


def test_thresholds_ignore_unsure_pixels_and_count_before_them(whole: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = whole
    segment(source, tmp_path / "out", min_confidence=0.6)
    plain, strict = (pq.read_table(folder / "class_stats.parquet").to_pylist() for folder in (out, tmp_path / "out"))
    assert [row["confidence_histogram"] for row in strict] == [row["confidence_histogram"] for row in plain]
    kept = [sum(row["confidence_histogram"][153:]) for row in plain]  # ceil(255 * 0.6) = 153
    assert [row["pixels"] for row in strict] == kept
    assert sum(row["ignored_fraction"] for row in read_rows(tmp_path / "out").masks) > 0


def test_the_budget_decides_the_exit_and_keeps_the_labels(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.tar").write_bytes(tar_bytes([*photos(3), ("bad.jpg", b"<html>")]))
    outcome = segment(source, tmp_path / "out")
    assert isinstance(outcome.error, BudgetExceeded)
    assert outcome.error.exit_code == 3
    assert outcome.run["state"] == "complete"
    assert segment(source, tmp_path / "out", failure_budget=0.25).error is None


def test_a_bug_in_a_worker_is_exit_1_and_the_rest_is_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.driver import ray_data as flow

    real = flow.label

    def with_a_bug(*arguments: object) -> Iterator[PartReport]:
        yield from real(*arguments)  # type: ignore[arg-type]
        yield PartReport(error="Traceback …", error_class="Bug")

    source = write_tars(tmp_path / "in", 1, 8)
    monkeypatch.setattr(flow, "label", with_a_bug)
    outcome = segment(source, tmp_path / "out", limit=4)
    assert isinstance(outcome.error, Bug)
    assert outcome.error.exit_code == 1
    assert outcome.run["counts"]["masks"] == 4


def test_nothing_there_is_exit_4_and_bad_input_exit_2(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "absent", tmp_path / "absent.tar"):
        with pytest.raises(NotReachable, match="nothing to label there"):
            segment(source, tmp_path / "out")
    (tmp_path / "empty" / "x.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(UsageError, match="gunzip"):
        segment(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failures_are_made_again_where_a_worker_died_before_writing_them(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.tar").write_bytes(tar_bytes([*photos(3), ("bad.jpg", b"<html>"), *photos(3, first=9)]))
    segment(source, out, failure_budget=1)
    (lost,) = (out / "failures").iterdir()
    before = lost.read_bytes()
    lost.unlink()
    last = next(part for part in parts_in(out) if part.last)
    (out / "masks" / str(last)).unlink()
    outcome = segment(source, out, failure_budget=1)
    assert lost.read_bytes() == before
    assert outcome.run["counts"] == {"images": 7, "masks": 6, "failures": 1, "broken_shards": 0, "inferred": 3, "skipped": 4}


def test_a_pass_that_fails_is_planned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.driver import ray_data as flow

    source, out = write_tars(tmp_path / "in", 2, 150), tmp_path / "out"
    real = flow.label
    rounds: list[int] = []

    def breaks_off(spans: list[object], *arguments: object) -> Iterator[object]:
        rounds.append(len(spans))
        for number, report in enumerate(real(spans, *arguments)):  # type: ignore[arg-type]
            yield report
            if len(rounds) == 1 and number == 0:
                raise RoundFailed("a node is gone")

    monkeypatch.setattr(flow, "label", breaks_off)
    outcome = segment(source, out)
    assert outcome.error is None
    assert len(rounds) == 2
    assert read_rows(out).keys == [(str(source / f"shard-{shard:03d}.tar"), index) for shard in range(2) for index in range(150)]
