"""Notes the calls of a store while it answers them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.storage.local import LocalStore


@contextmanager
def asked(patch: pytest.MonkeyPatch, out: object) -> Iterator[list[str]]:
    """A list that gets `method folder-or-file` for every call of a local store below `out` in this process."""
    found: list[str] = []
    with patch.context() as here:
        for method in ("walk", "names", "read", "stat", "create", "replace", "delete"):
            here.setattr(LocalStore, method, _noted(found, method, f"{out}/"))
        yield found


def _noted(found: list[str], method: str, prefix: str) -> object:
    real = getattr(LocalStore, method)

    def noted(self: LocalStore, uri: str, *arguments: object, **options: object) -> object:
        if uri.startswith(prefix):
            found.append(f"{method} {uri.removeprefix(prefix)}")
        return real(self, uri, *arguments, **options)

    return noted
