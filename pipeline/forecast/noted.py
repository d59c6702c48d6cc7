"""A store that is read for real and written in thought, for `--dry-run`."""

from collections.abc import Iterator

from pipeline.errors import ObjectMissing
from pipeline.storage.base import ObjectInfo, WritableStore


class Noted:
    """A store whose writes are only noted, so that the code of a real run can be asked what it would do."""

    def __init__(self, store: WritableStore) -> None:
        self._store = store
        self.walks_prefixes = store.walks_prefixes
        self.created: list[int] = []  # bytes
        self._deleted: set[str] = set()
        self.read, self.names = store.read, store.names

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """What is there, less what was deleted here."""
        return (info for info in self._store.walk(prefix) if info.uri not in self._deleted)

    def stat(self, uri: str) -> ObjectInfo:
        """What is there, unless it was deleted here."""
        if uri in self._deleted:
            raise ObjectMissing(f"deleted: {uri}")
        return self._store.stat(uri)

    def create(self, uri: str, data: bytes) -> str | None:
        """Note the size."""
        self.created.append(len(data))
        return f"noted:{uri}"

    def require_exclusive_create(self, out: str) -> None:
        """Nothing may be written: the run itself finds out."""

    def replace(self, uri: str, data: bytes) -> str:
        """Of what is there already, or made again; nobody counts it."""
        return f"noted:{uri}:{len(data)}"

    def replace_if(self, uri: str, data: bytes, before: bytes | None) -> bool:
        """Note the size."""
        return self.create(uri, data) is not None or before is None

    def sweep(self, out: str) -> None:
        """Nothing was left half-written here."""

    def delete(self, uri: str) -> None:
        """Note the name."""
        self._deleted.add(uri)
