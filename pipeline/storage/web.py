"""http(s) for inputs. Never asks the metadata addresses: there, clouds give credentials to every process of a machine."""

import ipaddress
import re
import socket
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import aiohttp

from pipeline.errors import ObjectChanged, StorageError, StorageRefused
from pipeline.storage.base import same_version
from pipeline.storage.remote import FORBIDDEN
from pipeline.storage.uris import without_secrets

_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "100.100.100.200", "168.63.129.16"),
    )
)
# IPv6 networks whose addresses hold an IPv4 address in their last 32 bits: NAT64, SIIT, and two networks that are out of use.
_CARRIERS = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::ffff:0:0/96", "::/96")))
_PIECE_BYTES = 1 << 20
_SPAN = re.compile(r"bytes (\d{1,19})-")
_PATIENCE = aiohttp.ClientTimeout(total=300, sock_connect=10, sock_read=60)  # seconds


def is_metadata_address(host: str) -> bool:
    """Is it link-local (as for AWS, GCP, Azure and Oracle), or a known other metadata address, also as IPv4 inside IPv6?"""
    address = ipaddress.ip_address(host.partition("%")[0])
    return any(each.is_link_local or each in _METADATA for each in (address, *_carried(address)))


def _carried(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address may stand for."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if any(address in carrier for carrier in _CARRIERS):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield address.teredo[1]


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for an address. aiohttp calls this with every resolved name, redirect and literal: none gets around the check."""
    family, kind, protocol, _, (host, *_) = address
    if is_metadata_address(host):
        raise PermissionError(f"{host} {FORBIDDEN}")
    return socket.socket(family, kind, protocol)


async def client(**arguments: Any) -> aiohttp.ClientSession:
    """A session that checks every address before it connects; for fsspec's `get_client`."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_socket), **({"timeout": _PATIENCE} | arguments))


async def get(
    files: Any, url: str, start: int = 0, length: int | None = None, version: str | None = None, max_bytes: int | None = None
) -> bytes:
    """`length` bytes from `start` (None: to the end) by one request of fsspec's HTTP file system.

    Reads no more than `length` bytes, or one byte more than `max_bytes`. version: `etag:…`; an answer with another ETag raises
    `ObjectChanged`. Raises `StorageRefused` if the server answers no ranges, and aiohttp's errors.
    """
    headers = {"Accept-Encoding": "identity"}  # else lengths, ranges and ETags are those of a compressed copy
    ranged = start > 0 or length is not None
    if ranged:
        headers["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
    options = files.kwargs | {"headers": files.kwargs.get("headers", {}) | headers}
    limit = max_bytes + 1 if length is None and max_bytes is not None else length
    session = await files.set_session()
    async with session.get(files.encode_url(url), **options) as answer:
        answer.raise_for_status()
        _check(answer, without_secrets(url), start, version, ranged=ranged)
        data = bytearray()
        async for piece in answer.content.iter_chunked(_PIECE_BYTES):
            data += piece
            if limit is not None and len(data) >= limit:
                return bytes(data[:limit])
        return bytes(data)


def _check(answer: aiohttp.ClientResponse, shown: str, start: int, version: str | None, *, ranged: bool) -> None:
    """Raise unless the answer is for the range that was asked for, and for this version."""
    tag = answer.headers.get("ETag")
    if version is not None and tag is not None and not same_version(version, f"etag:{tag}"):
        raise ObjectChanged(f"changed since it was listed: {shown}")
    if not ranged:
        return
    if start > 0 and answer.status != HTTPStatus.PARTIAL_CONTENT:
        raise StorageRefused(f"its server answers no ranges: copy it to where they are answered: {shown}")
    packed = answer.headers.get("Content-Encoding", "identity")
    if packed not in ("", "identity"):
        raise StorageRefused(f"its server sends it packed ({packed[:20]}), so that no range of it can be read: copy it: {shown}")
    span = _SPAN.match(answer.headers.get("Content-Range", ""))
    if answer.status == HTTPStatus.PARTIAL_CONTENT and span is not None and int(span[1]) != start:
        raise StorageError(f"asked for bytes from {start}, got another range: {shown}")
