"""Listings of parts that do not exist."""

from collections.abc import Iterable, Iterator

from pipeline.output.parts import PartName, PartTable, list_parts
from pipeline.storage.base import ObjectInfo
from pipeline.storage.local import LocalStore


class Listing(LocalStore):
    """A store that lists the given objects."""

    def __init__(self, infos: list[ObjectInfo]) -> None:
        super().__init__()
        self._infos = infos

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in self._infos if info.uri.startswith(prefix))


def table_of(parts: Iterable[PartName]) -> PartTable:
    """The table of a listing of these parts."""
    return list_parts(
        Listing([ObjectInfo(f"out/masks/{name}", name.padding if name.max_rows else 0, "etag:1") for name in parts]), "out"
    )
