"""URI -> store. Paths without a scheme (and `file://`) are local; `s3://` is S3; the rest is fsspec's."""

import os
import re
from functools import cache
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec

from pipeline.errors import UsageError
from pipeline.storage.base import ObjectInfo, Store, WritableStore
from pipeline.storage.local import LocalStore
from pipeline.storage.remote import RemoteStore

__all__ = [
    "ObjectInfo",
    "Store",
    "WritableStore",
    "join",
    "normalise",
    "scheme_of",
    "store_for",
    "without_secrets",
    "writable_store_for",
]


def scheme_of(uri: str) -> str:
    """`file` for paths, else the scheme in lower case."""
    scheme, separator, _ = uri.partition("://")
    return scheme.lower() if separator else "file"


def normalise(uri: str) -> str:
    """Absolute and in one spelling: `file://` and relative paths become absolute paths, `s3a` `s3`."""
    if "\0" in uri:
        raise UsageError("a URI with a NUL character")
    scheme = scheme_of(uri)
    if scheme == "file":
        path = unquote(urlsplit(uri).path) if "://" in uri else os.path.expanduser(uri)
        absolute = "/" + os.path.abspath(path).lstrip("/")  # POSIX lets `//x` stand, as another name of `/x`
        return absolute + ("/" if path.endswith("/") and absolute != "/" else "")
    rest = uri.partition("://")[2]
    return f"{'s3' if scheme in ('s3a', 's3n') else scheme}://{rest}"


def without_secrets(uri: str) -> str:
    """The URI as it may be written down: without user, password, query and fragment.

    Names in object stores may hold `?` and `#`, and `az://` a container before `@`: they lose `user:password@` only.
    """
    scheme = scheme_of(uri)
    if scheme == "file":
        return uri
    if scheme not in ("http", "https"):
        return _PASSWORD.sub("//", uri, count=1)
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UsageError(f"not a URI ({error}): {uri.partition('://')[0]}://…") from error
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # urlunsplit drops the // of an empty host


def join(folder: str, *names: str) -> str:
    """`folder/name/…` for paths and URIs alike."""
    return "/".join([folder.rstrip("/"), *names])


def base_name(uri: str) -> str:
    """The last component, without the query."""
    return PurePosixPath(without_secrets(uri)).name


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """Arrow's file system for a URI, with the same client and credentials, and the path in it."""
    from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

    if scheme_of(uri) == "file":
        return LocalFileSystem(), uri
    return PyFileSystem(FSSpecHandler(fsspec.filesystem(scheme_of(uri)))), uri.partition("://")[2]


_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")


@cache
def _store(scheme: str, _pid: int) -> Store:  # after a fork, clients are made anew
    if scheme == "file":
        return LocalStore()
    if scheme == "s3":
        from pipeline.storage.s3 import S3Store  # aiobotocore takes half a second to import

        return S3Store()
    return RemoteStore(scheme)


def store_for(uri: str) -> Store:
    """The store that reads this URI; one a process. Raises `NotReachable` for unknown schemes."""
    return _store(scheme_of(uri), os.getpid())


def writable_store_for(uri: str) -> WritableStore:
    """The store for an output. Raises `UsageError` where exclusive creation is not promised."""
    if scheme_of(uri) not in ("file", "s3"):
        raise UsageError(f"outputs go to a local path or s3://, not to {scheme_of(uri)}://")
    store: WritableStore = _store(scheme_of(uri), os.getpid())  # type: ignore[assignment]
    return store
