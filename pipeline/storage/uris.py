"""URIs as text: one spelling, their parts, and what of them may be written down."""

import os
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from pipeline.errors import UsageError

_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")


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
