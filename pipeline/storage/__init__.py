"""URI -> store. Paths without a scheme (and `file://`) are local; `s3://` is S3; fsspec reads all other schemes."""

import os
from functools import cache
from typing import Any

import fsspec

from pipeline.errors import UsageError
from pipeline.storage.base import ObjectInfo, Store, WritableStore
from pipeline.storage.local import LocalStore
from pipeline.storage.remote import RemoteStore
from pipeline.storage.uris import base_name, join, normalise, scheme_of, without_query, without_secrets

__all__ = [
    "ObjectInfo",
    "Store",
    "WritableStore",
    "base_name",
    "join",
    "normalise",
    "scheme_of",
    "store_for",
    "without_query",
    "without_secrets",
    "writable_store_for",
]


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """Arrow's file system for a URI, and the path in it. It uses the client and the credentials of the store."""
    from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

    if scheme_of(uri) == "file":
        return LocalFileSystem(), uri
    return PyFileSystem(FSSpecHandler(fsspec.filesystem(scheme_of(uri)))), uri.partition("://")[2]


@cache
def _store(scheme: str, _pid: int) -> Store:  # after a fork, clients are made anew
    if scheme == "file":
        return LocalStore()
    if scheme == "s3":
        from pipeline.storage.s3 import S3Store  # aiobotocore takes half a second to import

        return S3Store()
    return RemoteStore(scheme)


def store_for(uri: str) -> Store:
    """The store that reads this URI: one per scheme and process. Raises `NotReachable` for unknown schemes."""
    return _store(scheme_of(uri), os.getpid())


def writable_store_for(uri: str) -> WritableStore:
    """The store for an output. Raises `UsageError` if the scheme does not promise exclusive creation."""
    if scheme_of(uri) not in ("file", "s3"):
        raise UsageError(f"outputs go to a local path or s3://, not to {scheme_of(uri)}://")
    store: WritableStore = _store(scheme_of(uri), os.getpid())  # type: ignore[assignment]
    return store
