"""The forecast beside what is really there, and beside what the run's own code makes of it."""

import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.dry_run import dry_run, size
from jobs.report import Report
from pipeline.config import SegmentConfig
from pipeline.driver.attempt import Attempt
from pipeline.driver.progress import Progress
from pipeline.errors import Incomplete, NotReachable, RunMismatch, ShardChanged, UsageError
from pipeline.forecast import estimate as room
from pipeline.forecast import forecast as story
from pipeline.forecast.forecast import Forecast, forecast
from pipeline.forecast.rehearsal import Rehearsal, rehearse
from pipeline.forecast.sample import measure
from pipeline.labels.prepare import prepare
from pipeline.listing.listing import Listing, list_inputs
from pipeline.output.parts import list_parts
from pipeline.output.remaining import remaining_spans
from pipeline.plan.fingerprint import settings
from pipeline.plan.options import label_options, network_request, read_options
from pipeline.plan.plan import extend_plan
from pipeline.shards.base import Cursor, EncodedImage
from pipeline.storage import writable_store_for
from pipeline.worker.span_worker import SegmentSpan, WorkerConfig
from tests.support.corpus import cut_in_body, images, jpeg, parquet_bytes, photos, tar_bytes, without_footer


def config_of(source: Path, out: Path, **flags: Any) -> SegmentConfig:
    values: dict[str, Any] = {"weights": "bundled", "short_side": 64, "part_images": 4, "workers": 1} | flags
    return SegmentConfig(input=(str(source),), output=str(out), **values)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def run_spans(config: SegmentConfig, spans: int | None = None) -> int:
    """What workers of a real run do, without Ray, for the first spans; -> rows committed."""
    store, listing = writable_store_for(config.output), Listing()
    network = prepare(network_request(config))
    mine = settings(config, network)
    plan = extend_plan(store, config.output, None, list_inputs(config.input, listing, output=config.output), mine)
    worker = WorkerConfig(
        output=config.output, fingerprint=mine["fingerprint"], part_images=config.part_images, read=read_options(config),
        labels=label_options(config, network),
    )  # fmt: skip
    segment = SegmentSpan(worker, network)
    left = remaining_spans(plan, list_parts(store, config.output), part_images=config.part_images, workers=1)
    return sum(report.rows for span in left[:spans] for report in segment(span))


@pytest.fixture(autouse=True)
def no_rehearsal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would be started for each test; the tests of the rehearsal itself start it."""
    if "rehearsed" not in request.fixturenames:
        known = Rehearsal(seconds=20.0, images=0, run_json_bytes=2000, class_stats_bytes=9000, checkpoint_bytes=9000)
        monkeypatch.setattr(story, "rehearse", lambda *_, **__: known)


@pytest.fixture
def rehearsed() -> None:
    """This test rehearses for real."""


def snapshot(out: Path) -> dict[str, tuple[int, bytes]]:
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in sorted(out.rglob("*")) if file.is_file()}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two tars of 5 and 8 images, a Parquet file of 10 rows in groups of 4, three single images, one other file."""
    photos_ = [data for _, data in photos(10, first=50)]
    return write(
        tmp_path / "in",
        {
            "a.tar": tar_bytes(photos(5)), "b.tar": tar_bytes(photos(8, first=20)), "c.parquet": parquet_bytes(photos_),
            "d.jpg": jpeg(1), "e.jpg": jpeg(2), "f.jpg": jpeg(3), "notes.md": b"ignored",
        },
    )  # fmt: skip


def test_counts_are_exact_and_nothing_is_written(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = forecast(config_of(mixed, out))
    assert not out.exists()
    assert (found.tars, found.parquet_files, found.single_images, found.ignored_objects) == (2, 1, 3, 1)
    assert (found.images, found.exact, found.skipped) == (26, True, 0)
    assert found.parts == 2 + 2 + 3 + 1
    assert found.bytes == sum(file.stat().st_size for file in mixed.iterdir() if file.name != "notes.md")
    assert found.labelled == 26
    assert found.failures == 0
    assert found.seconds > found.labelling_seconds > 0
    assert sum(row["fraction"] for row in found.classes) == pytest.approx(1)
    assert {"decode", "network", "encode"} <= found.milliseconds.keys()


def test_parts_rows_and_output_size_are_those_of_the_run(mixed: Path, tmp_path: Path) -> None:
    config = config_of(mixed, tmp_path / "out")
    found = forecast(config)
    assert run_spans(config) == found.images
    written = [file.stat().st_size for file in (tmp_path / "out").rglob("*.parquet")]
    assert len(written) == found.parts + 2  # two plan files: of shards, of single images
    assert found.output_objects == len(written) + 3  # class_stats.parquet, run.json and the checkpoint come at the end
    assert found.output_bytes - 20_000 == pytest.approx(sum(written), rel=0.1)
    after = forecast(config)
    assert (after.images, after.parts, after.labelled, after.skipped) == (0, 0, 0, 26)
    assert after.seconds < 5


def test_only_what_is_left_is_forecast_and_the_output_is_untouched(mixed: Path, tmp_path: Path) -> None:
    config = config_of(mixed, tmp_path / "out")
    committed = run_spans(config, spans=1)
    before = snapshot(tmp_path / "out")
    found = forecast(config)
    assert snapshot(tmp_path / "out") == before
    assert committed == 5
    assert (found.images, found.skipped, found.parts) == (21, 5, 6)
    assert found.tars == 2


def test_redo_counts_the_parts_that_it_would_make_again(tmp_path: Path) -> None:
    members = [*photos(5), ("0009.jpg", b"no image")]
    source = write(tmp_path / "in", {"a.tar": tar_bytes(members)})
    config = config_of(source, tmp_path / "out")
    run_spans(config)
    before = snapshot(tmp_path / "out")
    found = forecast(config_of(source, tmp_path / "out", redo="CorruptImage"))
    assert (found.images, found.skipped, found.parts) == (2, 4, 1)
    assert snapshot(tmp_path / "out") == before


def test_a_limit_takes_whole_parts(mixed: Path, tmp_path: Path) -> None:
    found = forecast(config_of(mixed, tmp_path / "out", limit=13))
    assert found.images == 13
    assert found.parts == 4
    assert any("--limit 13" in note for note in found.notes)


def test_broken_shards_and_images_count_as_failures_of_the_sample(tmp_path: Path) -> None:
    broken = [case for case in images().values() if case.error == "CorruptImage"][:2]
    whole = tar_bytes(photos(4))
    source = write(
        tmp_path / "in",
        {"cut.tar": cut_in_body(whole, 2), "none.parquet": without_footer(parquet_bytes([jpeg()]))}
        | {case.name: case.data for case in broken},
    )
    config = config_of(source, tmp_path / "out")
    found = forecast(config)
    assert found.images == 3 + 1 + 2
    assert found.errors == {"BrokenShard": 2, "CorruptImage": 2}
    assert found.failures == 4
    assert run_spans(config) == found.images
    failures = [file.stat().st_size for file in (tmp_path / "out" / "failures").iterdir()]
    written = [file.stat().st_size for file in (tmp_path / "out").rglob("*.parquet")]
    assert len(failures) == 3
    assert found.output_objects - 3 == pytest.approx(len(written), abs=1)
    assert found.output_bytes - 20_000 == pytest.approx(sum(written), rel=0.5)  # two parts hold no mask at all


@pytest.fixture
def unlike_tars(tmp_path: Path) -> tuple[Path, int]:
    """Thirty tars of 20 to 60 images of different sizes."""
    random_ = random.Random(7)
    counts = [random_.randrange(20, 61) for _ in range(30)]
    first = 0
    for number, count in enumerate(counts):
        members = [(f"{name}.json", b"{}" * random_.randrange(200)) for name, _ in photos(count, first=first)]
        pictures = [(name, data + bytes(random_.randrange(4000))) for name, data in photos(count, first=first)]
        both = [member for pair in zip(pictures, members, strict=True) for member in pair]
        write(tmp_path / "in", {f"{number:03}.tar": tar_bytes(both)})
        first += count
    return tmp_path / "in", sum(counts)


def test_sampled_tars_are_within_ten_percent(
    unlike_tars: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, count = unlike_tars
    monkeypatch.setattr(room, "EXACT_TARS", 29)
    monkeypatch.setattr(room, "HEAD_BYTES", 64 << 10)
    found = forecast(config_of(source, tmp_path / "out", part_images=16))
    assert not found.exact
    assert found.images == pytest.approx(count, rel=0.1)
    assert found.labelled == 64
    assert any("tars" in note for note in found.notes)  # besides that this machine is busy, if it is
    monkeypatch.setattr(room, "EXACT_TARS", 30)
    assert forecast(config_of(source, tmp_path / "out", part_images=16)).images == count


def test_big_tars_are_sampled_too(unlike_tars: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, count = unlike_tars
    monkeypatch.setattr(room, "EXACT_TAR_BYTES", 0)
    monkeypatch.setattr(room, "HEAD_BYTES", 64 << 10)
    found = forecast(config_of(source, tmp_path / "out"))
    assert not found.exact
    assert found.images == pytest.approx(count, rel=0.1)


def test_sampled_footers_are_within_ten_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [10 + number % 7 for number in range(40)]
    files = {f"{n:02}.parquet": parquet_bytes([jpeg(n * 100 + k) for k in range(count)]) for n, count in enumerate(counts)}
    source = write(tmp_path / "in", files)
    monkeypatch.setattr(room, "SAMPLED_FOOTERS", 8)
    found = forecast(config_of(source, tmp_path / "out"))
    assert not found.exact
    assert found.images == pytest.approx(sum(counts), rel=0.1)
    assert found.parts == pytest.approx(sum(-(-count // 4) for count in counts), rel=0.15)


def test_the_price_is_core_hours_times_usd(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "_cores", lambda: 1)
    found = forecast(config_of(mixed, tmp_path / "out", usd_per_core_hour=0.04))
    assert found.core_hours == pytest.approx(found.workers * found.seconds / 3600)
    assert found.usd == pytest.approx(0.04 * found.core_hours)
    least = found.images * found.seconds_per_image
    assert found.labelling_seconds == pytest.approx(least, rel=0.5)
    assert found.labelling_seconds > least  # reading takes its part of the only core
    assert found.start_seconds == 20
    assert found.seconds > found.labelling_seconds + 20
    assert forecast(config_of(mixed, tmp_path / "out")).usd is None


def test_requests(mixed: Path, tmp_path: Path) -> None:
    found = forecast(config_of(mixed, tmp_path / "out"))
    requests, refreshes = found.requests, int(found.seconds / 10)
    begun = 3 + 3 + refreshes + 3 + 3 + 1  # plan; run.json; the checkpoint; the store is tried; the head
    assert requests.get == begun + 8 + (1 + 1) + (1 + 2) + (3 + 3)  # parts; tars; Parquet; images and plan file
    assert requests.put >= 4 + 2 + 8 + 4 + refreshes  # the store is tried; plan files, parts, class_stats, checkpoint, run.json
    assert requests.list >= 2 + 1 + 4


def test_workers_are_timed_side_by_side(tmp_path: Path) -> None:
    source = write(tmp_path / "in", {"a.tar": tar_bytes(photos(20))})
    alone = forecast(config_of(source, tmp_path / "out"))
    both = forecast(config_of(source, tmp_path / "out", workers=2))
    assert both.workers == 2
    assert both.labelled == alone.labelled == 20
    assert both.classes == alone.classes
    assert both.output_bytes == pytest.approx(alone.output_bytes, rel=0.05)


@pytest.mark.parametrize(
    ("address", "workers", "told"), [("ray://head:10001", None, True), ("ray://head:10001", 2, False), ("local", None, False)]
)
def test_a_cluster_is_not_asked_for_its_cores(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, workers: int | None, told: bool
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(story, "_cores", lambda: 1)
    found = forecast(config_of(mixed, tmp_path / "out", workers=workers))
    assert any("give --workers" in note for note in found.notes) is told


def test_errors_are_those_of_the_run(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(NotReachable) as nothing:
        forecast(config_of(tmp_path / "absent", tmp_path / "out"))
    assert nothing.value.exit_code == 4
    with pytest.raises(UsageError, match="id-column"):
        forecast(config_of(mixed / "c.parquet", tmp_path / "out", id_column="absent"))
    assert not (tmp_path / "out").exists()
    config = config_of(mixed, tmp_path / "out")
    run_spans(config, spans=1)
    with pytest.raises(RunMismatch, match="short_side"):
        forecast(config_of(mixed, tmp_path / "out", short_side=72))
    (mixed / "a.tar").write_bytes(tar_bytes(photos(6)))
    with pytest.raises(ShardChanged, match=r"a\.tar"):
        forecast(config)
    again = forecast(config_of(mixed, tmp_path / "out", relabel_changed=True))
    assert (again.images, again.skipped) == (27, 0)


def test_a_new_output_stores_confidence_or_final_masks(mixed: Path, tmp_path: Path) -> None:
    both: dict[str, Any] = {"confidence_map": True, "min_confidence": 0.5}
    config = config_of(mixed, tmp_path / "out", **both)
    for ask in (forecast, lambda config: Attempt(config, Progress()).run()):
        with pytest.raises(UsageError, match="--confidence-map and --min-confidence exclude each other") as refused:
            ask(config)
        assert refused.value.exit_code == 2
        assert not (tmp_path / "out").exists()
    for name, value in both.items():
        assert forecast(config_of(mixed, tmp_path / "out", **{name: value})).images == 26


def test_an_output_that_an_older_version_began_with_both_goes_on(mixed: Path, tmp_path: Path) -> None:
    config = config_of(mixed, tmp_path / "out", confidence_map=True, min_confidence=0.5)
    run_spans(config, spans=1)
    assert forecast(config).skipped > 0


def test_and_is_rehearsed(rehearsed: None, tmp_path: Path) -> None:
    config = config_of(tmp_path, tmp_path / "out", confidence_map=True, min_confidence=0.5)
    image = EncodedImage(shard="s", index=0, image_id="i", after=Cursor(1), data=jpeg(1))
    assert rehearse(config, [image], 1).images == 1


def test_a_shard_that_goes_while_it_is_forecast_is_a_failure(mixed: Path, tmp_path: Path) -> None:
    config = config_of(mixed, tmp_path / "out")
    run_spans(config, spans=0)
    (mixed / "b.tar").unlink()
    (mixed / "c.parquet").unlink()
    found = forecast(config)
    assert found.images == 5 + 1 + 1 + 3
    assert found.errors == {"BrokenShard": 2}


def test_the_rehearsal_is_a_real_run_that_leaves_nothing(
    rehearsed: None, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    big = write(tmp_path / "big", {"a.tar": tar_bytes([*photos(12), ("b.jpg", b"no image"), ("c.txt", bytes(9 << 20))])})
    found = forecast(config_of(big, tmp_path / "out", workers=2))
    assert not (tmp_path / "out").exists()
    assert not list(scratch.iterdir())
    assert found.images == 13
    assert found.start_seconds > 2  # Ray alone takes longer
    assert found.seconds == pytest.approx(found.start_seconds + found.labelling_seconds, abs=2)


def test_a_rehearsal_that_fails_says_why(rehearsed: None, mixed: Path, tmp_path: Path) -> None:
    config = config_of(mixed, tmp_path / "out").model_copy(update={"part_images": 0})
    with pytest.raises(Incomplete, match="rehearsal of the run failed: "):
        rehearse(config, [], 1)


@pytest.mark.parametrize(
    ("tasks", "workers", "images"),
    [
        ([10, 10, 10, 10, 10], 2, 30),
        ([40, 5, 5, 5], 2, 45),
        ([5, 5, 20, 10, 10], 2, 30),
        ([7], 4, 7),
        ([], 2, 0),
        ([1] * 2_000, 8, 250),
    ],
)
def test_the_last_worker_counts(tasks: list[float], workers: int, images: float) -> None:
    assert story._busiest(tasks, workers) == images
    whole = story._busiest([1.0] * (story._SIMULATED + 8), 8)
    assert whole == pytest.approx((story._SIMULATED + 8) / 8)


def test_big_tars_are_pieces_for_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tar of four parts, big enough to be cut: two workers share it."""
    monkeypatch.setattr(story, "_read_s", lambda *_: 0.0)
    monkeypatch.setattr(story, "_cores", lambda: 1)  # the sample in one process, in half the time
    big = write(tmp_path / "big", {"a.tar": tar_bytes([*photos(16), ("z.txt", bytes(9 << 20))])})
    shared = forecast(config_of(big, tmp_path / "out", workers=2))
    assert shared.labelling_seconds == pytest.approx(8 * shared.seconds_per_image)
    alone = forecast(config_of(big, tmp_path / "out", workers=1))
    assert alone.labelling_seconds == pytest.approx(16 * alone.seconds_per_image)
    assert shared.requests.get == alone.requests.get + 2 + 2  # four pieces, and the tar once more, to find where they begin


@pytest.mark.parametrize(("seconds", "expected", "told"), [(0.11, 0.11, False), (0.3, 0.1, True)])
def test_a_busy_machine_is_told_and_not_extrapolated(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: float, told: bool
) -> None:
    real = measure
    monkeypatch.setattr(story, "measure", lambda *given: replace(real(*given), seconds_per_image=seconds, cpu_s_per_image=0.1))
    found = forecast(config_of(mixed, tmp_path / "out"))
    assert found.seconds_per_image == expected
    assert any("other programs" in note for note in found.notes) is told


def test_rare_damage_is_looked_for_beyond_the_sample(tmp_path: Path) -> None:
    """Four in a hundred, in parts of eight: with 64 labelled, none or six of them are seen."""
    members = [(name, data[: len(data) // 2] if number % 25 == 7 else data) for number, (name, data) in enumerate(photos(200))]
    files = {f"{number}.tar": tar_bytes(members[number * 50 : number * 50 + 50]) for number in range(4)}
    config = config_of(write(tmp_path / "in", files), tmp_path / "out", part_images=8)
    found = forecast(config)
    run_spans(config)
    real = len(list((tmp_path / "out").rglob("*.parquet")))
    assert found.output_objects - 3 == pytest.approx(real, abs=1)


@pytest.fixture
def printed(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    config = config_of(mixed, tmp_path / "out", usd_per_core_hour=0.05)
    report = Report(str(tmp_path / "forecast.json"))
    report.begin()
    assert dry_run(config, report, debug=True) == 0
    report.end(0, None)
    assert not (tmp_path / "out").exists()
    return capsys.readouterr().out, json.loads((tmp_path / "forecast.json").read_text())


def test_what_is_printed_is_written(printed: tuple[str, dict[str, Any]]) -> None:
    text, values = printed
    for words in ("2 tars, 1 Parquet files; 3 single images", "26 to label", "expected time", "GET", "USD", "0 of 26 sampled"):
        assert words in text
    assert values.keys() >= set(Forecast.__slots__)
    assert values["images"] == 26
    assert values["exit_code"] == 0
    assert values["requests"].keys() == {"get", "put", "list"}
    assert values["usd"] == pytest.approx(0.05 * values["core_hours"])
    assert values["images_per_s"] > 0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (3400, "3.4 kB"), (2.5e9, "2.5 GB"), (5e15, "5,000.0 TB")]
)
def test_sizes_read_well(count: float, text: str) -> None:
    assert size(count) == text
