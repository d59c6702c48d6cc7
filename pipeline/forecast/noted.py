"""A store for `--dry-run`: reads are real, writes are only noted."""

from collections.abc import Iterator

from pipeline.errors import ObjectMissing
from pipeline.storage.base import ObjectInfo, WritableStore


class Noted:
    """A store whose writes are only noted. The code of a real run then shows what it would write."""

    def __init__(self, store: WritableStore) -> None:
        self._store = store
        self.walks_prefixes = store.walks_prefixes
        self.created: list[int] = []  # bytes
        self._deleted: set[str] = set()
        self.read, self.names = store.read, store.names

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects of the store, without those that were deleted here."""
        return (info for info in self._store.walk(prefix) if info.uri not in self._deleted)

    def stat(self, uri: str) -> ObjectInfo:
        """Size and version of an object. Raises `ObjectMissing` if it was deleted here."""
        if uri in self._deleted:
            raise ObjectMissing(f"deleted: {uri}")
        return self._store.stat(uri)

    def create(self, uri: str, data: bytes) -> str | None:
        """Note the size of the object."""
        self.created.append(len(data))
        return f"noted:{uri}"

    def require_exclusive_create(self, out: str) -> None:
        """Do nothing: the test would write. The run itself finds out."""

    def replace(self, uri: str, data: bytes) -> str:
        """Do nothing: a forecast does not count replaced files here."""
        return f"noted:{uri}:{len(data)}"

    def replace_if(self, uri: str, data: bytes, before: bytes | None) -> bool:
        """Note the size of the object; True."""
        return self.create(uri, data) is not None or before is None

    def sweep(self, out: str) -> None:
        """Do nothing: no file was left half-written."""

    def delete(self, uri: str) -> None:
        """Note the name: the object is not there any more."""
        self._deleted.add(uri)
