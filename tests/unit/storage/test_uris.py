"""Presigned URLs: until when they hold, and whose key signed them."""

import base64
import json
from datetime import UTC, datetime

import pytest

from pipeline.storage.uris import expires_at, signer_of

_POLICY = base64.b64encode(
    json.dumps({"Statement": [{"Resource": "*", "Condition": {"DateLessThan": {"AWS:EpochTime": 1795478400}}}]}).encode()
).decode()


@pytest.mark.parametrize(
    ("query", "expires"),
    [
        ("X-Amz-Date=20261124T000000Z&X-Amz-Expires=60", datetime(2026, 11, 24, 0, 1, tzinfo=UTC)),
        ("X-Goog-Date=20261124T000000Z&X-Goog-Expires=60", datetime(2026, 11, 24, 0, 1, tzinfo=UTC)),
        ("Expires=1795478400", datetime(2026, 11, 24, tzinfo=UTC)),
        ("sv=1&se=2026-11-24T00%3A00%3A00Z", datetime(2026, 11, 24, tzinfo=UTC)),
        (f"Policy={_POLICY.translate(str.maketrans('+=/', '-_~'))}&Signature=x", datetime(2026, 11, 24, tzinfo=UTC)),
        ("X-Amz-Date=nonsense&X-Amz-Expires=60", None), ("Expires=never", None), ("id=7", None), ("", None),
        ("Policy=nonsense", None), ("Policy=W10_", None),
    ],
)  # fmt: skip
def test_when_a_signature_expires(query: str, expires: datetime | None) -> None:
    assert expires_at(f"https://h/x?{query}") == (None if expires is None else expires.timestamp())
    assert expires_at(f"/in/x?{query}") is None


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("?X-Amz-Credential=A%2F20261124%2Feu&X-Amz-Signature=1", "?X-Amz-Credential=A%2F20261125%2Feu&X-Amz-Signature=2", True),
        ("?X-Amz-Credential=A%2F20261124%2Feu&X-Amz-Signature=1", "?X-Amz-Credential=B%2F20261124%2Feu&X-Amz-Signature=2", False),
        ("?X-Amz-Credential=A&X-Amz-Security-Token=1", "?X-Amz-Credential=A&X-Amz-Security-Token=2", False),
        ("?AWSAccessKeyId=A&Signature=1", "?AWSAccessKeyId=A&Signature=2", True),
        ("?GoogleAccessId=A", "?GoogleAccessId=B", False), ("?Key-Pair-Id=A", "?Key-Pair-Id=A&Policy=x", True),
        ("?token=1", "?token=2", True), ("?token=1", "", False), ("?token=1", "?AWSAccessKeyId=A", False), ("", "", True),
    ],
)  # fmt: skip
def test_whose_key_signed(one: str, other: str, alike: bool) -> None:
    assert (signer_of(f"https://h/1{one}") == signer_of(f"https://h/2{other}")) is alike


def test_users_are_credentials() -> None:
    assert signer_of("https://me:word@h/x") not in (signer_of("https://you:word@h/x"), signer_of("https://h/x"), None)
    assert signer_of("https://[h/x?y") is None
    assert expires_at("https://[h/x?y") is None
