"""URIs as text: one spelling, their parts, what may be written down; which key signed a URI, and when it expires."""

import base64
import json
import os
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, quote, unquote, unquote_plus, urlsplit

from pipeline.errors import UsageError

WEB = frozenset({"http", "https"})
_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")
_PLAIN = re.compile(r"https?://[!\"$->A-Z\\^-~]+")  # no user, query, fragment, bracket or anything that is not ASCII
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
# File systems of fsspec that read through another one. An allow-list would not see the other one.
WRAPPERS = frozenset(
    {"arrow_hdfs", "async_wrapper", "asynclocal", "asyncwrapper", "blockcache", "cached", "dir", "filecache", "generic",
     "libarchive", "reference", "simplecache", "tar", "zip"}
)  # fmt: skip
_OBJECT_STORES = WEB | {"s3", "gs", "gcs", "az", "abfs", "abfss", "hf"}  # here `::` is part of a name or of an IPv6 address

# Known signatures: the parameters that must be there, and all parameters of the signature. None of these tells images apart.
_SIGNATURES: tuple[tuple[frozenset[str], re.Pattern[str]], ...] = (
    (frozenset({"x-amz-signature"}), re.compile(r"x-amz-.*|x-id")),  # AWS, version 4
    (frozenset({"awsaccesskeyid", "signature", "expires"}), re.compile(r"awsaccesskeyid|signature|expires|x-amz-security-token")),
    (frozenset({"x-goog-signature"}), re.compile(r"x-goog-.*")),  # Google Cloud Storage, version 4
    (frozenset({"googleaccessid", "signature", "expires"}), re.compile(r"googleaccessid|signature|expires")),
    (frozenset({"key-pair-id", "signature"}), re.compile(r"key-pair-id|signature|expires|policy|hash-algorithm")),  # CloudFront
    (frozenset({"keyname", "signature", "expires"}), re.compile(r"keyname|signature|expires|urlprefix")),  # Google's CDN
    (  # Azure, shared access signatures
        frozenset({"sv", "sig"}),
        re.compile(r"sv|sig|se|st|sp|sr|spr|sip|si|ss|srt|sdd|ses|skoid|sktid|skt|ske|sks|skv|saoid|suoid|scid|rsc[cdelt]"),
    ),
)  # fmt: skip
# If the name of a parameter has one of these words, it may be a credential: `api_key`, `accessToken`, `X-Signature`, `auth`…
_CREDENTIALS = frozenset(
    {"apikey", "bearer", "cred", "credential", "credentials", "hdnea", "hdntl", "hdnts", "hmac", "jwt", "key", "mac", "oauth",
     "otp", "pass", "passphrase", "passwd", "password", "policy", "psk", "pw", "pwd", "sas", "secret", "session", "sid", "sig",
     "sign", "signature", "signed", "ticket", "tk", "tkn", "token", "tokens"}
)  # fmt: skip
_ENDINGS = (
    "apikey",
    "accesskey",
    "secretkey",
    "keyid",
    "token",
    "secret",
    "password",
    "passwd",
    "signature",
    "sessid",
    "sessionid",
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_JWT = re.compile(r"ey[\w-]{8,}\.[\w-]{4,}\.[\w-]*")


def scheme_of(uri: str) -> str:
    """`file` for paths, else the scheme in lower case."""
    scheme, separator, _ = uri.partition("://")
    return scheme.lower() if separator else "file"


def normalise(uri: str) -> str:
    """The URI in one spelling: `file://`, `local://` and relative paths become absolute paths, `s3a` and `s3n` become `s3`.

    Raises `UsageError` for NUL characters, chained URIs (`simplecache::s3://…`) and text that is no scheme.
    """
    scheme, rest = scheme_of(uri), uri.partition("://")[2]
    if scheme in ("file", "local"):
        path = unquote(urlsplit(uri).path) if "://" in uri else os.path.expanduser(uri)
        if "\0" in path:
            raise UsageError("a URI with a NUL character")
        absolute = "/" + os.path.abspath(path).lstrip("/")  # `abspath` keeps `//x`, as POSIX allows; it is `/x`
        return absolute + ("/" if path.endswith("/") and absolute != "/" else "")
    if "\0" in uri:
        raise UsageError("a URI with a NUL character")
    if "::" in scheme or scheme in WRAPPERS or ("::" in rest and scheme not in _OBJECT_STORES):
        raise UsageError(f"{scheme[:40]}://… reads through another file system, which is refused: name the object itself")
    if not _SCHEME.fullmatch(scheme):
        raise UsageError(f"{scheme[:40]!r} is no scheme: a local path that holds :// is written as file:///…")
    return f"{'s3' if scheme in ('s3a', 's3n') else scheme}://{rest}"


def without_secrets(uri: str) -> str:
    """The URI as it may be written down: on the web without user, password, fragment, and credentials in its query.

    The rest of a query stays, because it tells images apart (`img?id=1`). Credentials are the signatures of AWS, Google, Azure
    and CloudFront, parameters with the name of a credential (`token`, `api_key`, `sig`…), and JSON web tokens. Names in object
    stores may hold `?` and `#`, and `az://` has a container before `@`: these URIs lose `user:password@` only.
    """
    return parted(uri)[0]


def without_query(uri: str) -> str:
    """The URI without secrets, and on the web also without its query: it names the file."""
    written = without_secrets(uri)
    return written.partition("?")[0] if scheme_of(uri) in WEB else written


def parted(uri: str) -> tuple[str, str]:
    """`without_secrets`, and the doubtful parameters: those that a query loses only for their name, or for a JSON web token.

    Doubtful parameters may tell images apart: two URIs that are written alike but differ in these may be two images. A known
    signature, `user:password@` and a fragment never tell images apart.
    """
    if _PLAIN.fullmatch(uri):  # most URIs of a long list are plain
        return uri, ""
    scheme = scheme_of(uri)
    if scheme == "file":
        return uri, ""
    if scheme not in WEB:
        return _PASSWORD.sub("//", uri, count=1), ""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UsageError(f"not a URI ({error}): {uri.partition('://')[0]}://…") from error
    query, doubtful = _parted_query(parts.query) if parts.query else ("", "")
    plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # urlunsplit drops the // of an empty host
    return f"{plain}?{query}" if query else plain, doubtful


def _parted_query(query: str) -> tuple[str, str]:
    """The parameters that tell images apart, and those that may be credentials. Known signatures are in neither."""
    pieces = re.split("[&;]", query)
    names = [unquote_plus(piece.partition("=")[0]) for piece in pieces]
    there = {name.lower() for name in names}
    signed = [belongs for needed, belongs in _SIGNATURES if needed <= there]
    kept, doubtful = [], []
    for piece, name in zip(pieces, names, strict=True):
        if any(belongs.fullmatch(name.lower()) for belongs in signed):
            continue
        value = unquote_plus(piece.partition("=")[2])
        if _may_be_credential(name) or _JWT.search(value) or _JWT.search(name):
            doubtful.append(piece)
        elif "://" in value and scheme_of(value) in WEB:  # a proxy's: ?url=https://…
            inner, more = parted(value)
            kept.append(piece if inner == value else f"{piece.partition('=')[0]}={quote(inner, safe='')}")
            doubtful += [more] if more else []
        elif piece:
            kept.append(piece)
    return "&".join(kept), "&".join(doubtful)


def _may_be_credential(name: str) -> bool:
    words = {word.lower() for word in _WORDS.findall(name)}
    if not words.isdisjoint(_CREDENTIALS) or name.lower().endswith(_ENDINGS):
        return True
    return any(word.startswith("auth") and not re.match("authors?$|authored", word) for word in words)


def join(folder: str, *names: str) -> str:
    """`folder/name/…` for paths and URIs alike."""
    return "/".join([folder.rstrip("/"), *names])


def base_name(uri: str) -> str:
    """The last component, without the query."""
    return PurePosixPath(without_query(uri)).name


# Parameters that name a key or a session: AWS, Google Cloud, CloudFront, Google's CDN, Azure's user delegation.
_KEYS = frozenset(
    {"x-amz-credential", "x-amz-security-token", "awsaccesskeyid", "x-goog-credential", "googleaccessid", "key-pair-id",
     "keyname", "skoid", "ske"}
)  # fmt: skip
_SCOPED = frozenset({"x-amz-credential", "x-goog-credential"})  # key/date/region/…


def signer_of(uri: str) -> str | None:
    """User, password and signing key of a URL, as one text that names its credentials; None if the URL can hold none.

    The signature itself belongs to one URL, so it is left out. All queries that name no key count as alike.
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
