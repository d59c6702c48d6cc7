"""The plan: written once, only added to; lost puts, new rows, changed objects."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Damaged, NewerFormat, NotReachable, RunMismatch, ShardChanged, StorageError, UsageError
from pipeline.plan import plan as plan_module
from pipeline.plan.plan import Plan, extend_plan, read_plan, read_plan_rows, writes_queries
from pipeline.shards.base import SourceObject
from pipeline.storage import WritableStore
from pipeline.storage.local import LocalStore
from tests.support.memory import short_of_memory
from tests.support.overtaken import Overtaken, files_below

STORE = LocalStore()
SETTINGS: dict[str, object] = {"fingerprint": "f", "labels": {"short_side": 64}, "shape": {"part_images": 4}}
OTHER: dict[str, object] = {"fingerprint": "g", "labels": {"short_side": 80}, "shape": {"part_images": 4}}


def _tar(name: str, version: str | None = "etag:1", size: int | None = 10) -> SourceObject:
    return SourceObject(uri=f"/in/{name}.tar", kind="tar", size=size, version=version)


def _image(name: str, version: str | None = "etag:1", size: int | None = 10) -> SourceObject:
    return SourceObject(uri=f"/in/{name}.jpg", kind="image", size=size, version=version, image_id=f"{name}.jpg")


def _extend(
    out: Path, plan: Plan | None, *rows: SourceObject, settings: dict[str, object] = SETTINGS, relabel: bool = False,
    store: WritableStore = STORE,
) -> Plan:  # fmt: skip
    return extend_plan(store, str(out), plan, iter(rows), settings, relabel_changed=relabel)


def _files(out: Path) -> list[list[str]]:
    paths = sorted((out / "plan").glob("*.parquet"))
    assert [path.name for path in paths] == [f"{number:05}.parquet" for number in range(len(paths))]
    return [[uri.removeprefix("/in/") for uri in pq.read_table(path).column("uri").to_pylist()] for path in paths]


def _same(plan: Plan, other: Plan | None) -> bool:
    """Do both say the same is to be done?"""
    assert other is not None
    return (plan.settings, plan.files, plan.shards, dict(plan.superseded)) == (
        other.settings, other.files, other.shards, dict(other.superseded)
    )  # fmt: skip


def test_no_plan_yet(tmp_path: Path) -> None:
    assert read_plan(STORE, str(tmp_path)) is None


def test_shards_and_images_lie_in_files_of_their_own(tmp_path: Path) -> None:
    plan = _extend(tmp_path, None, _tar("0"), _image("a"), _tar("1"), _image("b"))
    assert _files(tmp_path) == [["0.tar", "1.tar"], ["a.jpg", "b.jpg"]]
    assert [(file.name, file.images, file.rows) for file in plan.files] == [
        ("plan/00000.parquet", False, 2),
        ("plan/00001.parquet", True, 2),
    ]
    assert plan.shards == {"/in/0.tar": _tar("0"), "/in/1.tar": _tar("1")}
    assert plan.added == 4
    assert _same(plan, read_plan(STORE, str(tmp_path)))


def test_a_uri_named_twice_is_one_row(tmp_path: Path) -> None:
    _extend(tmp_path, None, _image("a"), _image("b"), _image("a"))
    assert _files(tmp_path) == [["a.jpg", "b.jpg"]]


def test_the_same_listing_again_adds_nothing(tmp_path: Path) -> None:
    _extend(tmp_path, None, _tar("0"), _image("a"))
    again = _extend(tmp_path, read_plan(STORE, str(tmp_path)), _image("a"), _tar("0"))
    assert again.added == 0
    assert len(_files(tmp_path)) == 2


def test_what_is_new_is_added_and_nothing_is_moved(tmp_path: Path) -> None:
    _extend(tmp_path, None, _image("b"), _image("d"))
    before = (tmp_path / "plan" / "00000.parquet").read_bytes()
    plan = _extend(tmp_path, read_plan(STORE, str(tmp_path)), _image("a"), _image("b"), _image("c"), _image("d"))
    assert _files(tmp_path) == [["b.jpg", "d.jpg"], ["a.jpg", "c.jpg"]]
    assert (tmp_path / "plan" / "00000.parquet").read_bytes() == before
    assert plan.added == 2
    assert not plan.superseded
    assert _same(plan, read_plan(STORE, str(tmp_path)))


def test_what_is_not_listed_any_more_stays_planned(tmp_path: Path) -> None:
    _extend(tmp_path, None, _tar("0"), _tar("1"))
    assert set(_extend(tmp_path, read_plan(STORE, str(tmp_path)), _tar("1")).shards) == {"/in/0.tar", "/in/1.tar"}


# --- another attempt ------------------------------------------------------------------------------------------


def test_who_loses_the_put_takes_the_winners_plan(tmp_path: Path) -> None:
    winner = _extend(tmp_path, None, _tar("0"))
    loser = _extend(tmp_path, None, _tar("0"))
    assert _files(tmp_path) == [["0.tar"]]
    assert (winner.added, loser.added) == (1, 0)
    assert _same(loser, winner)


@pytest.mark.parametrize("rows_a_file", [1, 100])
@pytest.mark.parametrize("moment", [("create", "plan/00000.parquet"), None])
def test_who_loses_with_other_settings_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: tuple[str, str] | None, rows_a_file: int
) -> None:
    """Neither of its files: shards and images, or several of a long listing. Overtaken at the put, or before it looked."""
    monkeypatch.setattr(plan_module, "ROWS_PER_FILE", rows_a_file)
    there: dict[str, bytes] = {}

    def other() -> None:
        _extend(tmp_path, None, _tar("0"), settings=OTHER)
        there.update(files_below(tmp_path))

    store = Overtaken({moment: other} if moment else {})
    if moment is None:
        other()
    with pytest.raises(RunMismatch, match="short_side 80 there, 64 here"):
        _extend(tmp_path, None, _tar("0"), _tar("1"), _image("a"), _image("b"), store=store)
    assert there
    assert files_below(tmp_path) == there


def test_other_settings_than_the_plan_that_was_read_add_nothing(tmp_path: Path) -> None:
    _extend(tmp_path, None, _tar("0"), settings=OTHER)
    there = files_below(tmp_path)
    with pytest.raises(RunMismatch):
        _extend(tmp_path, read_plan(STORE, str(tmp_path)), _tar("1"))
    assert files_below(tmp_path) == there


def test_who_loses_adds_only_what_the_winner_has_not(tmp_path: Path) -> None:
    _extend(tmp_path, None, _tar("0"), _image("a"), _image("c"))
    loser = _extend(tmp_path, None, _tar("1"), _image("a"), _image("b"))
    # Shards lose file 0 and become file 2, as 1 is taken too; the images that are new follow.
    assert _files(tmp_path) == [["0.tar"], ["a.jpg", "c.jpg"], ["1.tar"], ["b.jpg"]]
    assert loser.added == 2
    assert not loser.superseded
    assert _same(loser, read_plan(STORE, str(tmp_path)))


def test_an_attempt_that_is_overtaken_while_it_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "ROWS_PER_FILE", 2)
    monkeypatch.setattr(plan_module, "_BATCH", 1)

    def listing() -> Iterator[SourceObject]:
        yield from (_image("a"), _image("b"), _image("c"))
        _extend(tmp_path, read_plan(STORE, str(tmp_path)), _image("b"), _image("c"), _image("z"))
        yield from (_image("d"), _image("e"))

    slow = extend_plan(STORE, str(tmp_path), None, listing(), SETTINGS)
    assert _files(tmp_path) == [["b.jpg", "c.jpg"], ["z.jpg"], ["a.jpg", "d.jpg"], ["e.jpg"]]
    assert slow.added == 3
    assert _same(slow, read_plan(STORE, str(tmp_path)))


@pytest.mark.parametrize("kind", [_tar, _image])
def test_an_attempt_that_is_overtaken_between_two_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[..., SourceObject]
) -> None:
    monkeypatch.setattr(plan_module, "ROWS_PER_FILE", 2)

    def other() -> None:
        _extend(tmp_path, read_plan(STORE, str(tmp_path)), kind("b"), kind("c"), kind("z"))

    store = Overtaken({("create", "plan/00001.parquet"): other})
    slow = _extend(tmp_path, None, *map(kind, "abcde"), store=store)
    files = [[name.partition(".")[0] for name in file] for file in _files(tmp_path)]
    assert files == [["a", "b"], ["c", "z"], ["d", "e"]]
    assert slow.added == 4
    assert _same(slow, read_plan(STORE, str(tmp_path)))


@settings(max_examples=40)  # each writes and flushes files
@given(
    mine=st.lists(st.integers(0, 12), min_size=1), theirs=st.lists(st.integers(0, 12), min_size=1), rows_a_file=st.integers(1, 4)
)
def test_two_attempts_plan_everything_once(
    tmp_path_factory: pytest.TempPathFactory, mine: list[int], theirs: list[int], rows_a_file: int
) -> None:
    out = tmp_path_factory.mktemp("out")

    def listing(numbers: list[int]) -> Iterator[SourceObject]:
        return (_tar(str(number)) if number % 3 == 0 else _image(str(number)) for number in numbers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "ROWS_PER_FILE", rows_a_file)
        extend_plan(STORE, str(out), None, listing(theirs), SETTINGS)
        late = extend_plan(STORE, str(out), None, listing(mine), SETTINGS)
    uris = [uri for file in _files(out) for uri in file]
    assert sorted(uris) == sorted({row.uri.removeprefix("/in/") for row in listing(mine + theirs)})
    assert not late.superseded
    assert _same(late, read_plan(STORE, str(out)))


def test_a_loser_that_saw_another_object_is_refused(tmp_path: Path) -> None:
    """The object changed between the listings of two attempts: the winner's row counts."""
    _extend(tmp_path, None, _tar("0", "etag:1"))
    with pytest.raises(ShardChanged, match=r"/in/0.tar"):
        _extend(tmp_path, None, _tar("0", "etag:2"), _tar("1"))
    assert read_plan(STORE, str(tmp_path)).shards["/in/0.tar"].version == "etag:1"  # type: ignore[union-attr]


def test_who_is_overtaken_by_one_that_saw_another_object_adds_nothing(tmp_path: Path) -> None:
    there: dict[str, bytes] = {}

    def other() -> None:
        _extend(tmp_path, None, _image("b", "etag:2"))
        there.update(files_below(tmp_path))

    store = Overtaken({("create", "plan/00000.parquet"): other})
    with pytest.raises(ShardChanged, match=r"/in/b.jpg"):
        _extend(tmp_path, None, _tar("0"), _image("a"), _image("b", "etag:1"), store=store)
    assert there
    assert files_below(tmp_path) == there


@pytest.mark.parametrize("last", [("etag:2", ShardChanged), (None, UsageError), (None, NotReachable)])
def test_a_listing_that_is_refused_at_its_end_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: tuple[str | None, type[Exception]]
) -> None:
    """However long it was, and whatever ends it: a changed object, a bad line of a list, a store that is gone."""
    monkeypatch.setattr(plan_module, "ROWS_PER_FILE", 2)
    monkeypatch.setattr(plan_module, "_BATCH", 2)
    _extend(tmp_path, None, _image("z"))
    there = files_below(tmp_path)
    version, error = last

    def listing() -> Iterator[SourceObject]:
        yield from (_image(str(number)) for number in range(7))
        yield from (_tar(str(number)) for number in range(7))
        if version is None:
            raise error("here it ends")
        yield _image("z", version)

    with pytest.raises(error):
        extend_plan(STORE, str(tmp_path), read_plan(STORE, str(tmp_path)), listing(), SETTINGS)
    assert files_below(tmp_path) == there


def test_a_plan_that_waits_on_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "_SPOOLED_BYTES", 1)
    monkeypatch.setattr("tempfile.tempdir", "/dev/shm/no-such-folder")
    with pytest.raises(StorageError, match="the plan waits in"):
        _extend(tmp_path, None, _tar("0"))
    assert not (tmp_path / "plan").exists()


def test_a_store_that_refuses_what_is_not_there_is_no_endless_loop(tmp_path: Path) -> None:
    class Refuses(LocalStore):
        def create(self, uri: str, data: bytes) -> str | None:
            return None if "/plan/" in uri else super().create(uri, data)

    with pytest.raises(StorageError, match="cannot be created"):
        _extend(tmp_path, None, _tar("0"), store=Refuses())


# --- changed objects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", [("etag:2", 10), ("etag:1", 11)])
@pytest.mark.parametrize("kind", [_tar, _image])
def test_changed_objects_are_named_and_refused(
    tmp_path: Path,
    kind: Callable[..., SourceObject],
    changed: tuple[str, int],
) -> None:
    _extend(tmp_path, None, kind("0"), kind("1"))
    with pytest.raises(ShardChanged, match=r"/in/0\.(tar|jpg); --relabel-changed"):
        _extend(tmp_path, read_plan(STORE, str(tmp_path)), kind("0", *changed), kind("1"), kind("2"))
    assert len(_files(tmp_path)) == 1


def test_few_of_many_changed_objects_are_named(tmp_path: Path) -> None:
    rows = [_tar(f"{number:03}") for number in range(40)]
    _extend(tmp_path, None, *rows)
    changed = [_tar(f"{number:03}", "etag:2") for number in range(40)]
    with pytest.raises(ShardChanged, match=r"/in/000.tar, /in/001.tar, .* and 35 more"):
        _extend(tmp_path, read_plan(STORE, str(tmp_path)), *changed)


def test_relabel_changed_adds_a_row_that_supersedes(tmp_path: Path) -> None:
    _extend(tmp_path, None, _tar("0"), _image("a"), _image("b"))
    plan = _extend(
        tmp_path, read_plan(STORE, str(tmp_path)), _tar("0", "etag:2"), _image("a"), _image("b", "etag:2"), relabel=True
    )
    assert _files(tmp_path) == [["0.tar"], ["a.jpg", "b.jpg"], ["0.tar"], ["b.jpg"]]
    assert plan.shards == {"/in/0.tar": _tar("0", "etag:2")}
    assert dict(plan.superseded) == {1: [1]}
    assert _same(plan, read_plan(STORE, str(tmp_path)))
    again = _extend(tmp_path, read_plan(STORE, str(tmp_path)), _tar("0", "etag:2"), _image("b", "etag:2"))
    assert again.added == 0
    third = _extend(tmp_path, again, _image("b", "etag:3"), relabel=True)
    assert dict(third.superseded) == {1: [1], 3: [0]}


def test_a_server_that_names_no_identity_is_not_checked(tmp_path: Path) -> None:
    _extend(tmp_path, None, _image("a", None, None), _image("b"))
    plan = _extend(tmp_path, read_plan(STORE, str(tmp_path)), _image("a", "etag:9"), _image("b", None, None))
    assert plan.added == 0


# --- files ----------------------------------------------------------------------------------------------------


def test_long_listings_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "ROWS_PER_FILE", 3)
    plan = _extend(tmp_path, None, *(_image(str(number)) for number in range(8)))
    assert [file.rows for file in plan.files] == [3, 3, 2]


@pytest.mark.parametrize(("first", "stop"), [(0, None), (0, 1), (3, 9), (4, 8), (5, 6), (9, None), (10, None), (2, 2)])
def test_rows_of_a_plan_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, stop: int | None) -> None:
    monkeypatch.setattr(plan_module, "_ROW_GROUP", 4)
    rows = [_image(str(number)) for number in range(10)]
    _extend(tmp_path, None, *rows)
    found = list(read_plan_rows(str(tmp_path), "plan/00000.parquet", first, stop))
    assert found == list(enumerate(rows))[first:stop]


def test_secrets_are_not_planned(tmp_path: Path) -> None:
    row = SourceObject(
        uri="https://h/a.jpg", kind="image", size=None, version=None, image_id="a", secret="https://h/a.jpg?token=1"
    )
    _extend(tmp_path, None, row)
    assert b"token" not in (tmp_path / "plan" / "00000.parquet").read_bytes()


@pytest.mark.parametrize("number", [0, 1])
def test_damaged_plans_are_said_to_be(tmp_path: Path, number: int) -> None:
    _extend(tmp_path, None, _tar("0"), _image("a"))
    path = tmp_path / "plan" / f"{number:05}.parquet"
    sound = path.read_bytes()
    for data in (b"", sound[:100], sound[: len(sound) - 20], sound[:4] + bytes(len(sound) - 8) + sound[-4:]):
        path.write_bytes(data)
        with pytest.raises(Damaged, match=f"plan/{number:05}.parquet"):
            read_plan(STORE, str(tmp_path))


@pytest.mark.parametrize("reads", ["read_table", "read_metadata"])
def test_memory_that_runs_out_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: str) -> None:
    _extend(tmp_path, None, _tar("0"))
    monkeypatch.setattr(pq, reads, short_of_memory)
    with pytest.raises(MemoryError):
        read_plan(STORE, str(tmp_path))


def test_any_flipped_byte_of_a_plan_is_damage_or_harmless(tmp_path: Path) -> None:
    _extend(tmp_path, None, _tar("0"))
    path = tmp_path / "plan" / "00000.parquet"
    sound = path.read_bytes()
    refused = 0
    for at in range(0, len(sound), 3):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0xA5]) + sound[at + 1 :])
        try:
            plan = read_plan(STORE, str(tmp_path))
        except Damaged:
            refused += 1
        else:
            assert plan is not None
    assert refused > 10


def test_what_a_checksum_alone_tells_is_damage_too(tmp_path: Path) -> None:
    """A flipped byte that leaves a table of the same shape with another name in it."""
    rows = [_image(f"{number:04}") for number in range(40)]
    _extend(tmp_path, None, *rows)
    path = tmp_path / "plan" / "00000.parquet"
    sound, table = path.read_bytes(), pq.read_table(path)
    unseen = [data for data in map(_flipped(sound), range(len(sound))) if _reads_as_another(data, table)]
    assert unseen
    for data in unseen[:5]:
        path.write_bytes(data)
        with pytest.raises(Damaged, match=r"plan/00000\.parquet"):
            read_plan(STORE, str(tmp_path))
        with pytest.raises((pa.ArrowException, OSError), match="CRC"):
            list(read_plan_rows(str(tmp_path), "plan/00000.parquet", 0, None))


def _flipped(data: bytes) -> Callable[[int], bytes]:
    return lambda at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _reads_as_another(data: bytes, table: pa.Table) -> bool:
    try:
        found = pq.read_table(pa.BufferReader(data))
        found.validate(full=True)
    except (pa.ArrowException, OSError, ValueError):
        return False
    return bool(found.schema == table.schema and found.num_rows == table.num_rows and not found.equals(table))


def test_names_that_are_no_text_are_damage(tmp_path: Path) -> None:
    _extend(tmp_path, None, _tar("0"))
    path = tmp_path / "plan" / "00000.parquet"
    table = pq.read_table(path)
    names = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"/\xff")])
    pq.write_table(table.set_column(table.schema.get_field_index("uri"), "uri", names), path)
    with pytest.raises(Damaged, match=r"plan/00000\.parquet cannot be read: .*UTF8"):
        read_plan(STORE, str(tmp_path))


def test_a_plan_that_lost_its_first_file_is_damaged(tmp_path: Path) -> None:
    _extend(tmp_path, None, _tar("0"), _image("a"))
    (tmp_path / "plan" / "00000.parquet").unlink()
    with pytest.raises(Damaged, match=r"plan/00000\.parquet is gone"):
        read_plan(STORE, str(tmp_path))
    (tmp_path / "plan" / "00001.parquet").unlink()
    assert read_plan(STORE, str(tmp_path)) is None


def test_a_plan_of_a_newer_version_is_told_by_its_format(tmp_path: Path) -> None:
    _extend(tmp_path, None, _tar("0"), settings=SETTINGS | {"format": 99})
    with pytest.raises(NewerFormat, match=r"^the plan is of format 99, "):
        read_plan(STORE, str(tmp_path))


@pytest.mark.parametrize(("settings", "written"), [({}, False), ({"format": 1}, False), ({"format": 2}, True), (None, True)])
def test_which_plans_write_queries_down(settings: dict[str, object] | None, written: bool) -> None:
    assert writes_queries(None if settings is None else Plan(settings=settings)) is written


def test_a_parquet_file_of_somebody_else_is_no_plan(tmp_path: Path) -> None:
    _extend(tmp_path, None, _tar("0"))
    path = tmp_path / "plan" / "00000.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(Damaged, match=r"plan/00000.parquet"):
        read_plan(STORE, str(tmp_path))
