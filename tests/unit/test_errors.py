"""The tree of exceptions: exit codes, kinds and stages as the contract names them; messages that repeat anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import errors
from pipeline.errors import MAX_MESSAGE_CHARS, BadImage, CorruptImage, MaskfleetError, clean

EXIT_CODES = {
    "MaskfleetError": 1,
    "Bug": 1,
    "UsageError": 2,
    "RunMismatch": 2,
    "ShardChanged": 2,
    "OutsideInputs": 2,
    "NewerFormat": 2,
    "BudgetExceeded": 3,
    "NotReachable": 4,
    "UnknownScheme": 4,
    "Incomplete": 5,
    "StorageError": 5,
    "StorageRefused": 5,
    "NotExclusive": 5,
    "ObjectChanged": 5,
    "HostUnreachable": 5,
    "ObjectMissing": 5,
    "ObjectDenied": 5,
    "ForbiddenAddress": 5,
    "ObjectTooLarge": 5,
    "Damaged": 7,
}
STAGES = {
    "ReadFailure": "read",
    "MissingImage": "read",
    "DeniedImage": "read",
    "ObjectUnreachable": "read",
    "LinkMember": "read",
    "AmbiguousImage": "read",
    "BrokenShard": "read",
    "DamagedRowGroup": "read",
    "CorruptImage": "decode",
    "UnsupportedFormat": "decode",
    "ImageTooLarge": "decode",
    "ImageTimeout": "decode",
    "KillsItsProcess": "decode",
    "InferenceFailed": "infer",
}


def _tree(root: type[Exception]) -> dict[str, type[Exception]]:
    below = {name: kind for child in root.__subclasses__() for name, kind in _tree(child).items()}
    return {root.__name__: root} | {name: kind for name, kind in below.items() if kind.__module__ == errors.__name__}


@pytest.mark.parametrize(("name", "code"), EXIT_CODES.items())
def test_exit_codes(name: str, code: int) -> None:
    assert _tree(MaskfleetError)[name].exit_code == code  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "stage"), STAGES.items())
def test_kind_and_stage_of_bad_images(name: str, stage: str) -> None:
    kind = _tree(BadImage)[name]
    error = kind("why")
    assert isinstance(error, BadImage)
    assert (error.kind, error.stage, error.message) == (name, stage, "why")


def test_no_error_has_been_forgotten_here() -> None:
    """A new error needs an exit code or a stage that somebody chose."""
    assert set(EXIT_CODES) >= set(_tree(MaskfleetError))
    assert {"BadImage", *STAGES} >= set(_tree(BadImage))


def test_bad_images_are_no_errors_of_the_run() -> None:
    assert not issubclass(BadImage, MaskfleetError)


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        ("cannot identify <_io.BytesIO object at 0x7f3c2a1b9e40>", "cannot identify"),
        ("cannot read /home/someone/data/x.jpg now", "cannot read … now"),
        ("GET s3://bucket/secret/x.jpg: 403", "GET … 403"),
        ("GET https://user:pass@host/x.jpg?X-Amz-Signature=1 failed", "GET … failed"),
        ("read/write and 1/2 stay", "read/write and 1/2 stay"),
        ("line one\nline two\r\n\x00end\u2028", "line one line two end "),
        ("turned \u202egnp.exe", "turned  gnp.exe"),
        ("", ""),
    ],
)
def test_clean(message: str, cleaned: str) -> None:
    assert clean(message) == cleaned


def test_clean_cuts_at_200_characters() -> None:
    assert MAX_MESSAGE_CHARS == 200
    assert clean("x" * 200) == "x" * 200
    assert clean("x" * 201) == "x" * 199 + "…"


@given(st.text(max_size=400))
def test_cleaned_messages_are_short_one_liners_and_stay_as_they_are(message: str) -> None:
    cleaned = clean(message)
    assert len(cleaned) <= MAX_MESSAGE_CHARS
    assert not set(cleaned) & set("\n\r\x0b\x0c\x1c\x1d\x1e\u2028\u2029\x00\u202e")
    assert clean(cleaned) == cleaned


def test_bad_images_clean_what_they_say() -> None:
    assert CorruptImage("broken at /tmp/ray/session_1/x").message == "broken at …"
