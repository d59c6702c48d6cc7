"""What a list or a run may name: allowed schemes, allowed places, and URIs that a server can be asked for."""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from pipeline.errors import NotReachable, UsageError
from pipeline.storage import normalise, scheme_of, store_for, without_secrets
from pipeline.storage.uris import WEB

SCHEMES = frozenset({"http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf"})
MAX_URI = 16_384  # characters; presigned URLs with session tokens have up to 4,000
_MAX_S3_KEY = 1_024  # bytes
_BUCKET = re.compile(r"[a-zA-Z0-9._-]{1,255}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SPACE = re.compile(r"\s")


def allowed_schemes(uri: str) -> frozenset[str]:
    """The schemes that a list may name without `--allow-root`: stores, the web, and the scheme of the list's own store."""
    return SCHEMES | {scheme_of(normalise(uri))}


def require_allowed(entry: str, schemes: Collection[str], roots: Sequence[str]) -> None:
    """Raise `UsageError` unless an entry of a list lies at or below a root, or, if there are no roots, has an allowed scheme."""
    scheme = scheme_of(entry)
    if roots:
        if not any(is_below(entry, root) for root in roots):
            raise UsageError(f"it names {_shown(entry)}, which lies below no --allow-root")
    elif scheme not in schemes:
        if scheme == "file":
            raise UsageError(
                f"it names a local file, {_shown(entry)}: a list from elsewhere may do so only with --allow-root {_shown(entry)}"
            )
        raise UsageError(
            f"{scheme[:40]}:// is nothing that a list may name without --allow-root (allowed: {', '.join(sorted(schemes))})"
        )


def require_sound(entry: str, *, spaces: bool = False, is_input: bool = False) -> None:
    """Raise `UsageError` for a URI that no server can be asked for, or that no column can hold.

    spaces: a URL may hold spaces. is_input: the URI may be a prefix or a glob, and may hold spaces.
    """
    if len(entry) > MAX_URI:
        raise UsageError(f"a URI of {len(entry):,} characters ({MAX_URI:,} are possible)")
    if not is_input:
        try:
            entry.encode()
        except UnicodeEncodeError as error:
            raise UsageError("its name is not UTF-8") from error
    scheme = scheme_of(entry)
    if scheme not in SCHEMES:
        return
    if _CONTROL.search(entry):
        raise UsageError(f"a URI with a control character: {_shown(_CONTROL.sub('?', entry))}")
    place, _, rest = entry.partition("://")[2].partition("/")
    if scheme in WEB:
        if not (spaces or is_input) and _SPACE.search(entry):
            raise UsageError(f"a URL with a space (written %20): {_shown(entry)}")
        _require_host(re.split("[?#]", place, maxsplit=1)[0])
    elif not place or not (rest or is_input):
        raise UsageError(f"it names no object: {_shown(entry)}")
    elif scheme == "s3" and not is_input:
        _require_bucket_and_key(place, rest)


def _require_bucket_and_key(bucket: str, key: str) -> None:
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"no name of a bucket: {_shown(bucket)}")
    if len(key.encode()) > _MAX_S3_KEY:
        raise UsageError(f"a key of {len(key.encode()):,} bytes ({_MAX_S3_KEY:,} are possible)")


@lru_cache(4096)
def _require_host(netloc: str) -> None:
    try:
        parts = urlsplit(f"//{netloc}")
        host, port = parts.hostname, parts.port
        if host is not None and ":" not in host:
            host.encode("idna")  # as the resolver does; each label has 1 to 63 characters
    except ValueError as error:  # UnicodeError too
        raise UsageError(f"no host and port of a URL: {_shown(netloc.rpartition('@')[2])}") from error
    if not host or port == 0 or (":" not in host and not re.fullmatch(r"[^\s/\\<>\"^`{|}%]+", host)):
        raise UsageError(f"no host and port of a URL: {_shown(netloc.rpartition('@')[2]) or 'an empty one'}")


@lru_cache(64)
def require_readable(scheme: str) -> None:
    """Raise `UsageError` unless this scheme can be read here: the package may be missing."""
    try:
        store_for("/" if scheme == "file" else f"{scheme}://")
    except NotReachable as error:
        raise UsageError(str(error)) from error


def is_below(entry: str, root: str) -> bool:
    """Does an entry lie at or below a root, compared by whole components?

    `..` cannot lead out of the root: local URIs have none, stores take it as a plain name, and on the web it is refused.
    """
    if scheme_of(entry) in WEB:
        path = entry.partition("?")[0]
        if "/.." in path.replace("%2e", ".").replace("%2E", "."):
            return False
    else:
        path = entry
    return path == root or path.startswith(root.rstrip("/") + "/")


def _shown(text: str) -> str:
    """The text without secrets, cut at 200 characters."""
    try:
        text = without_secrets(text)
    except UsageError:
        text = text.partition("?")[0].rpartition("@")[2]
    return text if len(text) <= 200 else text[:199] + "…"
