"""A local store in which another attempt acts at a chosen moment, so that a test of a race always meets the race."""

from collections.abc import Callable
from pathlib import Path

from pipeline.storage.local import LocalStore


class Overtaken(LocalStore):
    """moments: `{("create", "plan/00000.parquet"): act}`: `act` is called once, before the first such call for such a path.

    The second name is the end of a path.
    """

    def __init__(self, moments: dict[tuple[str, str], Callable[[], object]]) -> None:
        super().__init__()
        self.moments = dict(moments)

    def _before(self, method: str, uri: str) -> None:
        for moment in [moment for moment in self.moments if moment[0] == method and uri.endswith(moment[1])]:
            self.moments.pop(moment)()

    def create(self, uri: str, data: bytes) -> str | None:
        self._before("create", uri)
        return super().create(uri, data)

    def replace_if(self, uri: str, data: bytes, before: bytes | None) -> bool:
        self._before("replace_if", uri)
        return super().replace_if(uri, data, before)

    def delete(self, uri: str) -> None:
        self._before("delete", uri)
        super().delete(uri)

    def read(
        self, uri: str, start: int = 0, length: int | None = None, version: str | None = None, max_bytes: int | None = None
    ) -> bytes:
        self._before("read", uri)
        return super().read(uri, start, length, version, max_bytes)


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file of a folder: relative path -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
