"""http(s) for inputs, but never the addresses at which clouds hand credentials to whoever asks from inside."""

import ipaddress
import socket
from typing import Any

import aiohttp

from pipeline.storage.remote import FORBIDDEN

_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
_PIECE_BYTES = 1 << 20
_PATIENCE = aiohttp.ClientTimeout(total=300, sock_connect=10, sock_read=60)  # seconds


def is_metadata_address(host: str) -> bool:
    """Link-local (where AWS, GCP, Azure and Oracle have theirs), or one of the others."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_link_local or address in _METADATA


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """Called with what a name, a redirect or a literal has come to: none of them gets around it."""
    family, kind, protocol, _, (host, *_) = address
    if is_metadata_address(host):
        raise PermissionError(f"{host} {FORBIDDEN}")
    return socket.socket(family, kind, protocol)


async def client(**arguments: Any) -> aiohttp.ClientSession:
    """For fsspec's `get_client`."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_socket), **({"timeout": _PATIENCE} | arguments))


async def get(files: Any, url: str, most: int) -> bytes:
    """A whole answer by one request of fsspec's HTTP file system; of more than `most` bytes, only one more."""
    session = await files.set_session()
    async with session.get(files.encode_url(url), **files.kwargs) as answer:
        files._raise_not_found_for_status(answer, url)
        data = bytearray()
        async for piece in answer.content.iter_chunked(_PIECE_BYTES):
            data += piece
            if len(data) > most:
                return bytes(data[: most + 1])
        return bytes(data)
