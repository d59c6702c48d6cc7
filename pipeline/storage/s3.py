"""S3, and other servers that speak its protocol, through s3fs.

Endpoint, region and credentials come from the usual AWS variables and files;
`AWS_ENDPOINT_URL_S3` (or `AWS_ENDPOINT_URL`) names another server.
"""

import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import aiohttp
import fsspec
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from fsspec.asyn import sync

from pipeline.errors import (
    NotExclusive,
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    StorageError,
    StorageRefused,
)  # fmt: skip
from pipeline.storage.base import ObjectInfo, require_exclusive_create
from pipeline.storage.retry import with_retries

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
_MARK = "put"  # user metadata of a created object: which put made it
_MISSING = {"NoSuchKey", "NoSuchVersion", "404", "NotFound"}
_DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "InvalidObjectState"}
_CHANGED = {"PreconditionFailed", "412"}
_NOT_IMPLEMENTED = {"NotImplemented", "501"}
_REFUSED = {
    *_NOT_IMPLEMENTED,
    "NoSuchBucket", "InvalidBucketName", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "RequestTimeTooSkewed", "AuthorizationHeaderMalformed", "PermanentRedirect",
}  # fmt: skip

_ADVICE = (
    "conditional puts work on AWS S3, Cloudflare R2, Ceph, MinIO and SeaweedFS (after 4.16); else take a local disk, and copy"
)


class _Exists(Exception):
    """The name of a conditional put is taken."""


def _code(error: BaseException) -> str:
    """The S3 error code behind an exception of s3fs, or ''."""
    client_error = error if isinstance(error, ClientError) else error.__cause__
    if not isinstance(client_error, ClientError):
        return ""
    response = client_error.response
    code = str(response.get("Error", {}).get("Code", ""))
    return code or str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))


def _translated(error: Exception, uri: str) -> StorageError:
    code = _code(error)
    if code in _MISSING or (not code and isinstance(error, FileNotFoundError)):
        return ObjectMissing(f"no such object: {uri}")
    if code in _DENIED:
        return ObjectDenied(f"access denied: {uri}")
    if code in _CHANGED:
        return ObjectChanged(f"changed since it was listed: {uri}")
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StorageRefused(f"no AWS credentials found for {uri}")
    if code in _REFUSED:
        return StorageRefused(f"{code}: {_reason(error)}: {uri}", code)
    code = code or type(error).__name__
    return StorageError(f"{code}: {_reason(error)}: {uri}", code)


def _reason(error: Exception) -> str:
    client_error = error if isinstance(error, ClientError) else error.__cause__
    if isinstance(client_error, ClientError):
        return str(client_error.response.get("Error", {}).get("Message", "")) or "request failed"
    return str(error).splitlines()[0] if str(error) else "request failed"


def _etag(answer: Mapping[str, Any]) -> str:
    return "etag:" + str(answer.get("ETag", "")).strip('"')


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _session() -> AioSession:
    """A session that keeps timestamps as text: parsing those of 1,000 keys took 0.08 s, and the rest of their page 0.02 s."""
    session = AioSession()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    return session


class S3Store:
    """One client for all buckets; every request is retried with jitter (see `retry`)."""

    walks_prefixes = True

    def __init__(self) -> None:
        self._fs = fsspec.filesystem(
            "s3",
            session=_session(),
            use_listings_cache=False,
            config_kwargs={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": READ_TIMEOUT_S,
                "retries": {"mode": "standard", "total_max_attempts": 1},
                "max_pool_connections": 64,  # as many threads read footers
            },
        )
        self._fs.retries = 1  # our own loop waits, with jitter and a cap, and counts

    def _call(self, uri: str, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
        def once() -> T:
            try:
                answer: T = sync(self._fs.loop, request)
                return answer
            except (TimeoutError, OSError, ClientError, BotoCoreError, aiohttp.ClientError) as error:  # the last: in a body
                code = _code(error)
                if code in _CHANGED or isinstance(error, FileExistsError):
                    raise _Exists(uri) from error
                raise _translated(error, uri) from error

        return with_retries(once)

    async def _request(self, method: str, **arguments: object) -> dict[str, Any]:
        answer: dict[str, Any] = await self._fs._call_s3(method, **arguments)
        return answer

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below a prefix, sorted by key, 1,000 per request. Raises `StorageRefused` if there is no such bucket."""
        bucket, key = _split(prefix)
        arguments: dict[str, object] = {"Bucket": bucket, "Prefix": key}
        while True:
            page = self._call(prefix, lambda: self._request("list_objects_v2", **arguments))
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):  # a folder that a console has made
                    yield ObjectInfo(f"s3://{bucket}/{entry['Key']}", entry["Size"], _etag(entry))
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def names(self, prefix: str, old_s: float = 0.0) -> Iterator[str]:  # noqa: ARG002 - always new: a prefix is one request
        """Base names of the keys that begin with `prefix`."""
        for info in self.walk(prefix):
            yield info.uri.rpartition("/")[2]

    def stat(self, uri: str) -> ObjectInfo:
        """Size and ETag, by one HEAD."""
        bucket, key = _split(uri)
        head = self._call(uri, lambda: self._request("head_object", Bucket=bucket, Key=key))
        return ObjectInfo(uri, head["ContentLength"], _etag(head))

    def read(
        self, uri: str, start: int = 0, length: int | None = None, version: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        """One GET of a range, with If-Match if the version is known."""
        return b"" if length == 0 else self._get(uri, start, length, version, max_bytes)[0]

    def _get(
        self, uri: str, start: int = 0, length: int | None = None, version: str | None = None, max_bytes: int | None = None
    ) -> tuple[bytes, str]:
        """The bytes, and the ETag as it was sent."""
        bucket, key = _split(uri)
        arguments: dict[str, object] = {"Bucket": bucket, "Key": key}
        if start or length is not None:
            arguments["Range"] = f"bytes={start}-" + ("" if length is None else str(start + length - 1))
        if version is not None:
            arguments["IfMatch"] = '"' + version.removeprefix("etag:") + '"'

        async def get() -> tuple[bytes, str]:
            answer = await self._request("get_object", **arguments)
            try:
                if max_bytes is not None and answer.get("ContentLength", 0) > max_bytes:
                    raise ObjectTooLarge(f"{answer['ContentLength']} bytes: {uri}")
                data: bytes = await answer["Body"].read()
            finally:
                answer["Body"].close()
            wanted = answer.get("ContentLength") if length is None else length
            if wanted is not None and len(data) != wanted:
                raise OSError(f"short read: {len(data)} of {wanted} bytes")
            return data, str(answer.get("ETag", ""))

        try:
            return self._call(uri, get)
        except _Exists as error:
            raise ObjectChanged(f"changed since it was listed: {uri}") from error

    def create(self, uri: str, data: bytes) -> str | None:
        """PUT with If-None-Match; -> `etag:…`, or None if there is such an object.

        If the answer to our own PUT was lost, a second PUT finds the name taken. So each object has a mark in its metadata: if
        the mark is ours, the PUT has succeeded. Not only our retries send a PUT twice: aiohttp does, if a connection breaks.
        """
        bucket, key = _split(uri)
        mark = uuid.uuid4().hex

        async def put() -> dict[str, Any]:
            return await self._request("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", Metadata={_MARK: mark})

        try:
            return _etag(self._call(uri, put))
        except _Exists:
            try:
                head = self._call(uri, lambda: self._request("head_object", Bucket=bucket, Key=key))
            except ObjectMissing:  # the store refuses without an object, or the object has just been removed
                return None
            return _etag(head) if head.get("Metadata", {}).get(_MARK) == mark else None
        except StorageRefused as error:
            if error.code in _NOT_IMPLEMENTED:
                raise NotExclusive(f"its store does not implement If-None-Match ({error.code}): {uri}", error.code) from error
            raise

    def require_exclusive_create(self, out: str) -> None:
        """Raise `UsageError` if the store ignores If-None-Match, does not know it, or looks first and writes later."""
        require_exclusive_create(self, out, _ADVICE)

    def replace_if(self, uri: str, data: bytes, before: bytes | None) -> bool:
        """GET, then PUT with If-Match. If the store has no If-Match, another process may write between the two."""
        if before is None:
            return self.create(uri, data) is not None
        bucket, key = _split(uri)
        try:
            there, tag = self._get(uri)
            if there != before:
                return False
            self._call(uri, lambda: self._request("put_object", Bucket=bucket, Key=key, Body=data, IfMatch=tag))
        except ObjectMissing:
            return False
        except _Exists:  # somebody else's PUT, or ours whose answer was lost
            return self.read(uri) == data
        except StorageRefused as error:
            if error.code not in _NOT_IMPLEMENTED:
                raise
            self.replace(uri, data)
        return True

    def replace(self, uri: str, data: bytes) -> str:
        """An unconditional PUT."""
        bucket, key = _split(uri)
        return _etag(self._call(uri, lambda: self._request("put_object", Bucket=bucket, Key=key, Body=data)))

    def sweep(self, out: str) -> None:
        """Does nothing: a PUT writes an object whole or not at all."""

    def delete(self, uri: str) -> None:
        """A DELETE; S3 does not mind if there is none."""
        bucket, key = _split(uri)
        self._call(uri, lambda: self._request("delete_object", Bucket=bucket, Key=key))
