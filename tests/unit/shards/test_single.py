"""Single images: fetched ahead, in order; what is gone, denied or too large; and whose fault a denial is."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.errors import HostUnreachable, ObjectChanged, ObjectDenied, ObjectMissing, ObjectTooLarge, StorageError
from pipeline.shards import single
from pipeline.shards.base import Cursor, EncodedImage, ReadOptions, SourceObject
from pipeline.shards.single import FETCHES_AHEAD, read_images
from pipeline.storage import answers as answers_module
from pipeline.storage.base import ObjectInfo


class _Store:
    """Answers by URI with bytes or an error."""

    def __init__(self, answers: dict[str, bytes | Exception]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str | None]] = []
        self.max_bytes: list[int] = []

    def read(
        self,
        uri: str,
        start: int = 0,
        length: int | None = None,
        version: str | None = None,
        max_bytes: int | None = None,
    ) -> bytes:
        assert (start, length, max_bytes is None) in ((0, None, False), (0, 1, True))
        self.asked.append((uri, version))
        self.max_bytes.append(max_bytes or 1)
        answer = self.answers.get(uri, ObjectMissing("gone"))
        if isinstance(answer, Exception):
            raise answer
        if max_bytes is not None and len(answer) > max_bytes:
            raise ObjectTooLarge("more")
        return answer

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        return (ObjectInfo(uri, 1, None) for uri in self.answers if uri.startswith(prefix))

    def stat(self, uri: str) -> ObjectInfo:
        raise ObjectMissing(f"{uri}: the root of a host is no object, but it answers")


def _image(uri: str, *, size: int | None = None, secret: str | None = None) -> SourceObject:
    return SourceObject(uri=uri, kind="image", size=size, version="etag:1", image_id=None, secret=secret)


def _read(monkeypatch: pytest.MonkeyPatch, answers: dict[str, bytes | Exception], *uris: str) -> list[EncodedImage]:
    store = _Store(answers)
    monkeypatch.setattr(single, "store_for", lambda _: store)
    monkeypatch.setattr(answers_module, "store_for", lambda _: store)
    return list(read_images(enumerate(map(_image, uris)), ReadOptions()))


def _kinds(images: list[EncodedImage]) -> list[str | None]:
    return [None if image.error is None else image.error.kind for image in images]


def test_in_order_with_the_row_of_the_plan_as_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    uris = [f"s3://b/{number}.jpg" for number in range(50)]
    store = _Store({uri: uri.encode() for uri in uris})
    monkeypatch.setattr(single, "store_for", lambda _: store)
    found = list(read_images(((row * 2, _image(uri)) for row, uri in enumerate(uris)), ReadOptions()))
    assert [image.data for image in found] == [uri.encode() for uri in uris]
    assert [image.after for image in found] == [Cursor(row * 2 + 1) for row in range(50)]
    assert {image.index for image in found} == {0}
    assert [(image.shard, image.image_id) for image in found] == [(uri, uri) for uri in uris]
    assert {(image.offset, image.length) for image in found[:1]} == {(0, len(uris[0]))}
    assert {version for _, version in store.asked} == {"etag:1"}


def test_the_secret_is_for_fetching_only(monkeypatch: pytest.MonkeyPatch) -> None:
    store = _Store({"https://h/x?token=1": b"data"})
    monkeypatch.setattr(single, "store_for", lambda _: store)
    (image,) = read_images([(0, _image("https://h/x", secret="https://h/x?token=1"))], ReadOptions())
    assert image.data == b"data"
    assert "token" not in repr(image)


def test_what_is_gone_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _read(monkeypatch, {"s3://b/1": b"x"}, "s3://b/0", "s3://b/1")
    assert _kinds(found) == ["MissingImage", None]
    assert (found[0].data, found[0].offset, found[0].length) == (None, None, None)


def test_too_large_ones_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    store = _Store({})
    monkeypatch.setattr(single, "store_for", lambda _: store)
    (image,) = read_images([(0, _image("s3://b/0", size=11))], ReadOptions(max_encoded_bytes=10))
    assert _kinds([image]) == ["ImageTooLarge"]
    assert image.bytes_length == 11
    assert store.asked == []


AWAY = HostUnreachable("no such host", "ClientConnectorDNSError")
DENIED = ObjectDenied("access denied: s3://b/0")


@pytest.mark.parametrize(
    ("answers", "uris", "kinds"),
    [
        ({"s3://b/0": b"x", "s3://b/1": DENIED}, ["s3://b/0", "s3://b/1"], [None, "DeniedImage"]),
        ({"s3://b/0": DENIED, "s3://b/1": b"x"}, ["s3://b/0", "s3://b/1"], ["DeniedImage", None]),
        ({"s3://b/0": DENIED, "s3://b/1": b"x"}, ["s3://b/0", "s3://b/gone"], ["DeniedImage", "MissingImage"]),
        ({"gs://b/in/a": DENIED, "gs://b/in/b": b"x"}, ["gs://b/in/a"], ["DeniedImage"]),
        (
            {"https://a/0": ObjectMissing("404"), "https://b/0": ObjectMissing("404")},
            ["https://a/0", "https://b/0"],
            ["MissingImage"] * 2,
        ),
        ({"https://a/0": b"x", "https://b/0": AWAY}, ["https://a/0", "https://b/0"], [None, "ObjectUnreachable"]),
    ],
)
def test_a_denial_is_the_images_own_where_the_store_answers(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, bytes | Exception], uris: list[str], kinds: list[str | None]
) -> None:
    assert _kinds(_read(monkeypatch, answers, *uris)) == kinds


@pytest.mark.parametrize(
    "answers",
    [
        {"s3://b/0": DENIED, "s3://b/1": DENIED},
        {"s3://b/0": DENIED, "s3://other/1": b"x", "s3://b/1": DENIED},
        {"s3://b/0": DENIED, "s3://b/1": StorageError("503")},
        {"https://a/0": AWAY, "https://b/0": AWAY},
    ],
)
def test_denials_everywhere_are_wrong_credentials(monkeypatch: pytest.MonkeyPatch, answers: dict[str, bytes | Exception]) -> None:
    with pytest.raises(StorageError, match="credentials"):
        _read(monkeypatch, answers, *answers)


class _Moody(_Store):
    """Says no to the first request for each object, when others that were asked for have been answered."""

    def __init__(self, answers: dict[str, bytes | Exception], no: Exception) -> None:
        super().__init__(answers)
        self.no, self.later = no, threading.Event()

    def read(self, uri: str, *asked: Any, **more: Any) -> bytes:
        if uri.endswith("/0") and not any(uri == each for each, _ in self.asked):
            self.asked.append((uri, None))
            self.later.set()
            raise self.no
        assert self.later.wait(10)
        return super().read(uri, *asked, **more)


@pytest.mark.parametrize(
    ("root", "no"), [("s3://b", DENIED), ("s3://b", ObjectMissing("gone")), ("https://h", AWAY), ("https://h", DENIED)]
)
def test_a_bad_moment_of_the_store_costs_no_label(monkeypatch: pytest.MonkeyPatch, root: str, no: Exception) -> None:
    """The network was gone for a second, or a token was renewed: it answers others now, and this one if it is asked again."""
    store = _Moody({f"{root}/{number}": b"x" for number in range(3)}, no)
    monkeypatch.setattr(single, "store_for", lambda _: store)
    monkeypatch.setattr(answers_module, "store_for", lambda _: store)
    found = list(read_images(enumerate(_image(f"{root}/{number}") for number in range(3)), ReadOptions()))
    assert _kinds(found) == [None] * 3


def test_a_dead_host_is_waited_for_once_and_not_once_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = [f"https://dead/{number}" for number in range(100)]
    answers: dict[str, bytes | Exception] = {f"https://alive/{number}": b"x" for number in range(100)}
    store = _Store(answers | dict.fromkeys(dead, AWAY))
    monkeypatch.setattr(single, "store_for", lambda _: store)
    monkeypatch.setattr(answers_module, "store_for", lambda _: store)
    uris = [uri for number, uri in enumerate(dead) for uri in (uri, f"https://alive/{number}")]
    assert _kinds(list(read_images(enumerate(map(_image, uris)), ReadOptions()))) == ["ObjectUnreachable", None] * 100
    assert sum(uri.startswith("https://dead/") for uri, _ in store.asked) <= FETCHES_AHEAD + 2


@pytest.mark.parametrize(
    "uri", ["gopher://h/x.jpg", "simplecache::https://h/x.jpg", "local:///etc/hostname", "zip://x::https://h/x"]
)
def test_what_no_store_reads_is_a_failure_of_lists_that_were_planned_before_it_was_refused(uri: str) -> None:
    (found,) = read_images([(0, _image(uri))], ReadOptions())
    assert _kinds([found]) == ["ObjectUnreachable"]


def test_the_dead_links_that_are_left_of_a_list_come_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    store = _Store({"https://h/1": b"x"})
    monkeypatch.setattr(single, "store_for", lambda _: store)
    monkeypatch.setattr(answers_module, "store_for", lambda _: store)
    rows = [(0, _image("https://h/0")), (2, _image("https://h/2"))]
    with pytest.raises(StorageError, match="nothing else"):
        list(read_images(rows, ReadOptions()))
    assert _kinds(list(read_images(rows, ReadOptions(), candidates=lambda _: ["https://h/1"]))) == ["MissingImage"] * 2


@pytest.mark.parametrize("error", [StorageError("503"), ObjectChanged("other")])
def test_other_errors_of_the_store_are_raised(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    with pytest.raises(type(error)):
        _read(monkeypatch, {"s3://b/0": b"x", "s3://b/1": error}, "s3://b/0", "s3://b/1")


def test_several_are_fetched_at_once_but_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    together, taken = threading.Barrier(FETCHES_AHEAD), 0

    class _Waits(_Store):
        def read(self, *asked: Any, **more: Any) -> bytes:
            together.wait(20)
            return super().read(*asked, **more)

    def rows() -> Iterator[tuple[int, SourceObject]]:
        nonlocal taken
        for row in range(FETCHES_AHEAD * 4):
            taken += 1
            yield row, _image(f"s3://b/{row}")

    store = _Waits({f"s3://b/{row}": b"x" for row in range(FETCHES_AHEAD * 4)})
    monkeypatch.setattr(single, "store_for", lambda _: store)
    images = read_images(rows(), ReadOptions())
    next(images)
    assert taken == FETCHES_AHEAD + 1
    together.abort()
    images.close()  # type: ignore[attr-defined]


class _Weighs(_Store):
    """Knows how many bytes were asked for and not yet taken, at most."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__({uri: bytes(size) for uri, size in sizes.items()})
        self.sizes, self.lock, self.ahead, self.peak = sizes, threading.Lock(), 0, 0

    def read(self, uri: str, *asked: Any, **more: Any) -> bytes:
        with self.lock:
            self.ahead += self.sizes[uri]
            self.peak = max(self.peak, self.ahead)
        return super().read(uri, *asked, **more)

    def all_of(self, images: Iterator[EncodedImage]) -> list[EncodedImage]:
        found = []
        for image in images:
            with self.lock:
                self.ahead -= self.sizes[image.shard]
            found.append(image)
        return found


@pytest.mark.parametrize(
    ("sizes", "peak"), [([10] * 30, 90), ([60] * 9, 60), ([40] * 9, 80), ([10, 500, 10, 500, 10], 500), ([90, 10, 10], 100)]
)
def test_no_more_bytes_are_fetched_ahead_than_the_bound(monkeypatch: pytest.MonkeyPatch, sizes: list[int], peak: int) -> None:
    monkeypatch.setattr(single, "ENCODED_AHEAD_BYTES", 100)
    store = _Weighs({f"s3://b/{number}": size for number, size in enumerate(sizes)})
    monkeypatch.setattr(single, "store_for", lambda _: store)
    rows = ((row, _image(f"s3://b/{row}", size=size)) for row, size in enumerate(sizes))
    found = store.all_of(read_images(rows, ReadOptions()))
    assert [len(image.data or b"") for image in found] == sizes
    assert store.peak <= peak
    assert store.peak > peak // 2


def test_of_an_image_of_unknown_size_only_so_much_is_fetched_before_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "ENCODED_AHEAD_BYTES", 80)
    monkeypatch.setattr(single, "UNTOLD_BYTES", 10)
    sizes = [3, 50, 3, 10, 11, 2000, 3]
    store = _Store({f"s3://b/{number}": bytes(size) for number, size in enumerate(sizes)})
    monkeypatch.setattr(single, "store_for", lambda _: store)
    rows = ((row, _image(f"s3://b/{row}")) for row in range(len(sizes)))
    found = list(read_images(rows, ReadOptions(max_encoded_bytes=1000)))
    assert _kinds(found) == [None, None, None, None, None, "ImageTooLarge", None]
    assert [len(image.data or b"") for image in found] == [3, 50, 3, 10, 11, 0, 3]
    assert sorted(store.max_bytes) == [10] * 7 + [1000] * 3


def test_closing_early_ends_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    store = _Store({f"s3://b/{row}": b"x" for row in range(1000)})
    monkeypatch.setattr(single, "store_for", lambda _: store)
    images = read_images(((row, _image(f"s3://b/{row}")) for row in range(1000)), ReadOptions())
    next(images)
    images.close()  # type: ignore[attr-defined]
    assert len(store.asked) <= FETCHES_AHEAD + 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]
