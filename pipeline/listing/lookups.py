"""Many names at once: brace patterns, and looks at many objects, with a limit and in order."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import TypeVar

from pipeline.errors import ObjectDenied, ObjectMissing, UsageError
from pipeline.storage import ObjectInfo, normalise, scheme_of, store_for, without_secrets

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 32  # look-ups at the same time
MAX_BRACES = 10_000_000
_PAGE = 1_000  # objects per request of a listing
_HELD = 4_096  # entries that may wait for a look-up before them
_FEW = 3  # up to so many names, single look-ups are sooner than a listing
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


def looked_up(items: Iterable[T], look: Callable[[T], Callable[[], R] | None]) -> Iterator[tuple[T, Future[R] | None]]:
    """The items in order, each with the future of the call that `look(item)` returns, or None. Runs `AT_ONCE` calls at a time."""
    pending: deque[tuple[T, Future[R] | None]] = deque()
    asked = 0
    with ThreadPoolExecutor(AT_ONCE, "look-up") as threads:  # starts a thread only if there is a call
        try:
            for item in items:
                call = look(item)
                asked += call is not None
                pending.append((item, None if call is None else threads.submit(call)))
                while pending and (pending[0][1] is None or asked > AT_ONCE or len(pending) > _HELD):
                    asked -= pending[0][1] is not None
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            for _, future in pending:
                if future is not None:
                    future.cancel()


def expand_braces(text: str) -> Iterator[str]:
    """`shard-{000..127}.tar` -> 128 names, as WebDataset writes them."""
    if _count(text) > MAX_BRACES:
        raise UsageError(f"--input {without_secrets(text)}: more than {MAX_BRACES:,} names in braces")
    return _expanded(text)


def _expanded(text: str) -> Iterator[str]:
    found = _BRACES.search(text)
    if found is None:
        yield text
        return
    for number in range(int(found[1]), int(found[2]) + 1):
        yield from _expanded(text[: found.start()] + str(number).zfill(len(found[1])) + text[found.end() :])


def _count(text: str) -> int:
    lengths = [int(high) - int(low) + 1 for low, high in _BRACES.findall(text)]
    if any(length < 1 for length in lengths):
        raise UsageError(f"--input {without_secrets(text)}: the range in braces is empty")
    return prod(lengths)


class BraceLookup:
    """`stat` for the names of one input. On S3, one listing finds all names of a brace pattern, by their common prefix.

    Other objects may lie there too: the listing stops after as many requests as single look-ups would wait for.
    """

    def __init__(self, text: str) -> None:
        self._found: dict[str, ObjectInfo] = {}
        self._whole = False
        if scheme_of(text) in ("s3", "s3a", "s3n") and (names := _count(text)) > _FEW:
            self._list(normalise(text), names)

    def _list(self, uri: str, names: int) -> None:
        wanted = re.compile(r"(\d+)".join(re.escape(text) for text in _BRACES.split(uri)[::3]))
        ranges = [(int(low), int(high), len(low)) for low, high in _BRACES.findall(uri)]
        prefix = uri[: next(_BRACES.finditer(uri)).start()]
        try:
            for number, info in enumerate(store_for(uri).walk(prefix)):
                if number >= _PAGE * (1 + names // AT_ONCE):
                    return
                if (match := wanted.fullmatch(info.uri)) and all(
                    low <= int(digits) <= high and digits == str(int(digits)).zfill(width)
                    for digits, (low, high, width) in zip(match.groups(), ranges, strict=True)
                ):
                    self._found[info.uri] = info
            self._whole = True
        except (ObjectDenied, ObjectMissing):  # the right to read objects does not include the right to list them
            return

    def __call__(self, uri: str) -> ObjectInfo | None:
        """The object of this name; None if there is none: the name may be a folder or a glob."""
        if (info := self._found.pop(uri, None)) is not None:
            return info
        if self._whole:
            return None
        try:
            return store_for(uri).stat(uri)
        except ObjectMissing:
            return None
