"""All other schemes, which fsspec reads if the package of the scheme is installed: inputs only."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import fsspec
from fsspec.asyn import sync

from pipeline.errors import (
    ForbiddenAddress,
    HostUnreachable,
    NotReachable,
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectTooLarge,
    StorageError,
    UnknownScheme,
    UsageError,
)
from pipeline.storage.base import ObjectInfo, same_version
from pipeline.storage.retry import with_retries
from pipeline.storage.uris import WEB, WRAPPERS, scheme_of, without_secrets

_GONE = {404, 410}
_DENIED = {400, 401, 403, 451}  # 400 is, among others, the answer to an expired presigned URL
_NOT_OF_THE_OBJECT = {407, 408, 409, 416, 421, 423, 425, 429}  # all other 4xx answers of the web are final
_REFUSED = set(range(400, 500)) - _NOT_OF_THE_OBJECT
_ORIGIN_DOWN = {521, 522, 523, 525, 526, 530}  # Cloudflare's codes for a host behind it that takes no connection
_UNREACHABLE = {"ClientConnectorError", "ConnectionTimeoutError", "InvalidURL", "NonHttpUrlClientError", "TooManyRedirects"}
_SERVERS, _SERVER_S = 4, 0.2  # the servers of one host may have different ETags for one object
_DEEPEST = 64  # levels of folders; a page that links to itself by ever new names has no end
FORBIDDEN = "is a metadata address"  # in the message of the error that `storage.web` raises


async def _web_client(**arguments: Any) -> Any:
    from pipeline.storage.web import client  # aiohttp is slow to import

    return await client(**arguments)


def _status(error: BaseException, *, web: bool) -> int | None:
    """The HTTP status in an error of aiohttp, of Azure's SDK or of gcsfs."""
    said = (getattr(error, name, None) for name in (("status",) if web else ("status", "status_code", "code")))
    return next((status for status in said if isinstance(status, int)), None)


def _is_refusal(message: str) -> bool:
    """Is it a 403 of gcsfs? Only the text of its error tells. If Google throttles, its 403 says quota or limit."""
    return message.startswith("Forbidden:") and not re.search("quota|limit", message, re.IGNORECASE)


def _translated(error: BaseException, uri: str) -> StorageError:
    web = scheme_of(uri) in WEB
    if web and isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec's `info` reports every failure as a missing file
    uri = without_secrets(uri)
    status, kind = _status(error, web=web), type(error).__name__
    behind = getattr(error, "os_error", error)  # aiohttp wraps the error of the connection
    if isinstance(behind, PermissionError) and FORBIDDEN in str(behind):
        return ForbiddenAddress(f"never asked, as it may be a metadata service: {uri}")
    if web and (not _UNREACHABLE.isdisjoint(each.__name__ for each in type(error).__mro__) or isinstance(error, ValueError)):
        return HostUnreachable(f"{kind}: {uri}", kind)
    if isinstance(behind, FileNotFoundError) or status in _GONE:
        return ObjectMissing(f"no such object: {uri}")
    if web and status in _ORIGIN_DOWN:
        return HostUnreachable(f"HTTP {status}: {uri}", f"HTTP {status}")
    denied = isinstance(behind, PermissionError) or (type(error) is OSError and _is_refusal(str(error)))
    if denied or status in _DENIED or (web and status in _REFUSED):
        said = "" if status in (None, 403) else f" (HTTP {status})"
        return ObjectDenied(f"access denied{said}: {uri}", str(status or ""))
    return StorageError(f"{kind}: {uri}" + ("" if status is None else f" (HTTP {status})"), kind)


def _require_end(folder: str, prefix: str) -> None:
    if folder.count("/") > prefix.count("/") + _DEEPEST:
        raise UsageError(f"{without_secrets(prefix)}: its index goes more than {_DEEPEST} folders deep: name them, or a list")


def _links_below(folder: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The links of an index page that lead further down: each once, without `.` and `..`."""
    found = {}
    for entry in entries:
        name = _resolved(entry["name"], folder)
        if name is not None:
            found[name] = entry | {"name": name}
    return list(found.values())


def _resolved(name: str, folder: str) -> str | None:
    """A link without `.` and `..`; None if it does not lead further down than the folder. http and https are one place."""
    scheme, _, place = name.partition("://")
    root = folder.partition("://")[2].rstrip("/") + "/"
    anchor = root if "?" in root else root.partition("/")[0] + "/"  # slashes in a query are no path
    if not place.startswith(anchor):
        return None
    path, mark, query = place[len(anchor) :].partition("?")
    parts: list[str] = []
    for part in path.split("/"):
        plain = part.replace("%2e", ".").replace("%2E", ".")
        if plain == "..":
            if not parts:
                return None
            parts.pop()
        elif plain != ".":
            parts.append(part)
    place = f"{anchor}{'/'.join(parts)}{mark}{query}"
    return f"{scheme}://{place}" if place.startswith(root) and place != root else None


class RemoteStore:
    """One fsspec file system. An object has a version only if the server gives an ETag (or MD5) and the size."""

    def __init__(self, scheme: str) -> None:
        if "::" in scheme or scheme in WRAPPERS | {"file", "local"}:
            raise UnknownScheme(f"{scheme}:// reads through another file system, which is refused")
        try:
            self._fs: Any = fsspec.filesystem(scheme, **({"get_client": _web_client} if scheme in WEB else {}))
        except ImportError as error:
            raise NotReachable(f"{scheme}:// cannot be read here: {error}") from error
        except ValueError as error:
            raise UnknownScheme(f"{scheme}:// cannot be read: {error}") from error
        self._scheme = scheme

    def _info(self, uri: str, details: dict[str, Any]) -> ObjectInfo:
        tag = details.get("ETag") or details.get("etag") or details.get("md5Hash")
        size = details.get("size")
        return ObjectInfo(uri, None if size is None else int(size), f"etag:{tag}" if tag and size is not None else None)

    def _uri(self, name: str) -> str:
        return name if "://" in name else f"{self._scheme}://{name}"

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below a prefix, folder by folder, sorted by name; on the web from index pages.

        Raises `UsageError` if index pages go too many folders deep.
        """
        pending, seen = [prefix], set[str]()
        while pending:
            folder = pending.pop()
            try:
                entries = with_retries(lambda folder=folder: self._ls(folder))  # type: ignore[misc]
            except ObjectMissing:
                continue
            if self._scheme in WEB:
                _require_end(folder, prefix)
                entries = [entry for entry in _links_below(folder, entries) if entry["name"] not in seen]
                seen.update(entry["name"] for entry in entries if entry["type"] == "directory")
            ordered = sorted(entries, key=lambda entry: entry["name"])
            pending.extend(self._uri(e["name"]) for e in reversed(ordered) if e["type"] == "directory")
            for entry in ordered:
                if entry["type"] == "file":
                    yield self._info(self._uri(entry["name"]), entry)

    def _ls(self, folder: str) -> list[dict[str, Any]]:
        try:
            self._fs.invalidate_cache(folder)  # an old listing says nothing about now
            found: list[dict[str, Any]] = self._fs.ls(folder, detail=True)
        except Exception as error:  # noqa: BLE001 - fsspec packages raise their own SDK's exceptions
            raise _translated(error, folder) from None  # its text holds the whole URI, with secrets
        return found

    def stat(self, uri: str) -> ObjectInfo:
        """Size and version of one object, as the server says."""

        def once() -> ObjectInfo:
            try:
                return self._info(uri, self._fs.info(uri))
            except Exception as error:  # noqa: BLE001
                raise _translated(error, uri) from None

        return with_retries(once)

    def read(
        self,
        uri: str,
        start: int = 0,
        length: int | None = None,
        version: str | None = None,
        max_bytes: int | None = None,
    ) -> bytes:
        """One request for a range. A web server that ignores ranges is refused, unless the range begins at 0.

        The version is checked in the answer itself on the web, and by a request of its own in other stores.
        """
        if length == 0:
            return b""

        def once() -> bytes:
            try:
                if self._scheme in WEB:
                    data = self._of_web(uri, start, length, version, max_bytes)
                else:
                    data = self._range(uri, start, length, version) if max_bytes is None else self._whole(uri, version, max_bytes)
            except StorageError:
                raise
            except Exception as error:  # noqa: BLE001
                raise _translated(error, uri) from None
            if max_bytes is not None and len(data) > max_bytes:
                raise ObjectTooLarge(f"more than {max_bytes} bytes: {without_secrets(uri)}")
            if length is not None and len(data) != length:
                if start == 0 and len(data) > length:
                    return data[:length]
                raise StorageError(f"asked for {length} bytes, got {len(data)} (no range reads?): {without_secrets(uri)}")
            return data

        return with_retries(once)

    def _of_web(self, uri: str, start: int, length: int | None, version: str | None, max_bytes: int | None) -> bytes:
        """Read as a stream, and stop at the wanted length if a server sends more. Raises `ObjectChanged`."""
        from pipeline.storage.web import get

        for other_server in range(_SERVERS):
            with suppress(ObjectChanged):
                data: bytes = sync(self._fs.loop, get, self._fs, uri, start, length, version, max_bytes)
                return data
            time.sleep(_SERVER_S * other_server)
        raise ObjectChanged(f"changed since it was listed: {without_secrets(uri)}")

    def _range(self, uri: str, start: int, length: int | None, version: str | None) -> bytes:
        end = None if length is None else start + length
        data: bytes = self._fs.cat_file(uri) if start == 0 and end is None else self._fs.cat_file(uri, start=start, end=end)
        if version is not None:
            self._look(uri, version)  # asked after the bytes: if the version is still the same, the bytes are of it
        return data

    def _whole(self, uri: str, version: str | None, max_bytes: int) -> bytes:
        size = self._look(uri, version).size
        data: bytes = self._fs.cat_file(uri) if size is None or size <= max_bytes else bytes(max_bytes + 1)
        return data

    def _look(self, uri: str, version: str | None) -> ObjectInfo:
        """Size and version of an object now. Raises `ObjectChanged` if the version is another."""
        if version is not None:
            self._fs.invalidate_cache()  # an old listing says nothing about now
        found = self._info(uri, self._fs.info(uri))
        if version is not None and found.version is not None and not same_version(found.version, version):
            raise ObjectChanged(f"changed since it was listed: {without_secrets(uri)}")
        return found
