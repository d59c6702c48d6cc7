"""Presigned URLs: whose key signed one, and until when it holds."""

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

from pipeline.storage.uris import WEB, scheme_of

# Of AWS, Google Cloud, CloudFront, Google's CDN and Azure's user delegation: names of a key, or of a session.
_KEYS = frozenset(
    {"x-amz-credential", "x-amz-security-token", "awsaccesskeyid", "x-goog-credential", "googleaccessid", "key-pair-id",
     "keyname", "skoid", "ske"}
)  # fmt: skip
_SCOPED = frozenset({"x-amz-credential", "x-goog-credential"})  # key/date/region/…


def signer_of(uri: str) -> str | None:
    """What names the credentials of a URL: user, password, and the key of its signature; None if it can hold none.

    The signature itself is of one URL, and says nothing of others: where a query names no key, all of them are alike.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    user = parts.netloc.rpartition("@")[0]
    if not user and not parts.query:
        return None
    query = ((name.lower(), value) for name, value in parse_qsl(parts.query))
    keys = sorted((name, value.partition("/")[0] if name in _SCOPED else value) for name, value in query if name in _KEYS)
    return json.dumps([user, keys])


def expires_at(uri: str) -> float | None:
    """When a presigned URL expires, in Unix seconds; None if its query does not say."""
    if scheme_of(uri) not in WEB:
        return None
    try:
        query = dict(parse_qsl(urlsplit(uri).query))
    except ValueError:
        return None
    for family in ("X-Amz", "X-Goog"):
        if f"{family}-Date" in query:
            with suppress(ValueError, OverflowError):
                signed = datetime.strptime(query[f"{family}-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return (signed + timedelta(seconds=int(query.get(f"{family}-Expires", "")))).timestamp()
    with suppress(ValueError):
        if "Expires" in query:
            return float(query["Expires"])
        if "se" in query:  # Azure
            until = datetime.fromisoformat(query["se"])
            return (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp()
    with suppress(ValueError, LookupError, TypeError):  # CloudFront's own alphabet
        policy = json.loads(base64.b64decode(query["Policy"].translate(str.maketrans("-_~", "+=/"))))
        return float(policy["Statement"][0]["Condition"]["DateLessThan"]["AWS:EpochTime"])
    return None
