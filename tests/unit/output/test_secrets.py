"""Secrets of presigned inputs go with the spans that need them, and with no others."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.output import remaining as left
from pipeline.output.remaining import remaining_spans, waves
from pipeline.output.span import OTHERS, Secrets, Span, without_secrets_of
from pipeline.plan.plan import Plan, extend_plan
from pipeline.shards.base import SourceObject
from pipeline.storage.local import LocalStore
from tests.support.counted import CountedRow, compared


def _secret(uri: str) -> str:
    return f"{uri}?X-Amz-Signature=of-{uri.rpartition('/')[2]}"


@pytest.fixture
def planned(tmp_path: Path) -> tuple[str, Plan]:
    """Three tars and ten single images; of both some are presigned."""
    entries = [SourceObject(uri=f"https://h/{name}.tar", kind="tar", size=10, version="etag:1") for name in "abc"]
    entries += [SourceObject(uri=f"https://h/{number}.jpg", kind="image", size=10, version="etag:1") for number in range(10)]
    return str(tmp_path), extend_plan(LocalStore(), str(tmp_path), None, iter(entries), {})


PRESIGNED = [f"https://h/{name}" for name in ("b.tar", "1.jpg", "2.jpg", "7.jpg", "gone.jpg")]


def test_a_span_has_the_secrets_of_its_own_rows(planned: tuple[str, Plan]) -> None:
    out, plan = planned
    plan.superseded[1] = [2]
    spans = remaining_spans(plan, {}, part_images=4, workers=1)
    given = list(Secrets({uri: _secret(uri) for uri in PRESIGNED}, out).given(spans))
    assert [span.source.secret for span in given] == [None, _secret("https://h/b.tar"), None, None, None, None]
    assert [span.secrets for span in given[3:]] == [
        ((1, _secret("https://h/1.jpg")),),
        ((7, _secret("https://h/7.jpg")),),
        (),
    ]
    assert [len(span.others) for span in given] == [0, OTHERS, 0, OTHERS, OTHERS, 0]
    assert set(given[1].others) < {_secret(uri) for uri in PRESIGNED}
    assert [Span.from_json(span.to_json()) for span in given] == given
    assert [span.to_json() for span in Secrets({}, out).given(spans)] == [span.to_json() for span in spans]


def test_a_row_is_not_compared_with_all_that_are_replaced(tmp_path: Path) -> None:
    uris = [f"https://h/{number}.jpg" for number in range(300)]
    entries = [SourceObject(uri=uri, kind="image", size=10, version="etag:1") for uri in uris]
    plan = extend_plan(LocalStore(), str(tmp_path), None, iter(entries), {})
    (whole,) = remaining_spans(plan, {}, part_images=300, workers=1)
    span = replace(whole, superseded=tuple(CountedRow(row) for row in range(299)))
    compared.clear()
    (given,) = Secrets({uri: _secret(uri) for uri in uris}, str(tmp_path)).given([span])
    assert given.secrets == ((299, _secret(uris[299])),)
    assert compared["rows"] <= 4 * 300


def test_a_plan_is_read_once_for_all_its_spans(planned: tuple[str, Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    out, plan = planned
    reads = 0
    real = LocalStore.stat

    def counted(self: LocalStore, uri: str) -> object:
        nonlocal reads
        reads += 1
        return real(self, uri)

    monkeypatch.setattr(LocalStore, "stat", counted)
    list(Secrets({PRESIGNED[1]: "x"}, out).given(remaining_spans(plan, {}, part_images=1, workers=9)))
    assert reads == 1


def test_many_secrets_end_a_wave(planned: tuple[str, Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left, "WAVE_SPANS", 4)
    monkeypatch.setattr(left, "WAVE_SPANS_A_WORKER", 1)
    out, plan = planned
    secrets = Secrets({f"https://h/{number}.jpg": _secret(f"https://h/{number}.jpg") for number in range(10)}, out)
    found = list(waves(plan, {}, part_images=4, workers=1, secrets=secrets))
    assert [[len(span.secrets) for span in wave] for wave in found] == [[0, 0, 0, 4], [4], [2]]


def test_a_message_has_no_secret() -> None:
    span = Span(
        source=SourceObject(uri="https://h/a.tar", kind="tar", size=1, version=None, secret="https://u:p@h/a.tar?sig=1"),
        digest="d", first=0, stop=None, secrets=((4, "https://h/b.jpg?sig=2"),),
        others=("https://h/d.jpg?sig=3",),
    )  # fmt: skip
    text = "no answer from https://u:p@h/a.tar?sig=1 and https://h/b.jpg?sig=2, but from https://h/d.jpg?sig=3"
    assert without_secrets_of(span, text) == "no answer from https://h/a.tar and https://h/b.jpg, but from https://h/d.jpg"
