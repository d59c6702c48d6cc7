"""Where the tars of `bench pipeline` lie: a local folder, a real S3 server on this machine, or both."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.shards.base import SourceObject
from pipeline.storage import store_for

LOCAL, S3 = "local", "S3"
_BUCKET = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where tars lie and labels go; `output` begins the names of what the job writes. beside: processes to watch, too."""

    name: str
    source: str
    output: str
    beside: tuple[int, ...] = ()

    def shards(self) -> tuple[SourceObject, ...]:
        """The tars, as the job's listing finds them."""
        found = store_for(self.source).walk(self.source.rstrip("/") + "/")
        return tuple(SourceObject(uri=info.uri, kind="tar", size=info.size, version=info.version) for info in found)


@contextmanager
def local_place() -> Iterator[Place]:
    """An empty folder for tars, `source`, and one for labels; both are gone afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "in"
        source.mkdir()
        yield Place(name=LOCAL, source=str(source), output=str(Path(scratch) / "out"))


@contextmanager
def s3_place(tars: Sequence[Path]) -> Iterator[Place]:
    """The same tars in a bucket of a server that runs meanwhile, and is known to this process and its children."""
    from jobs.benchmarks.s3_server import S3Server, S3ServerMissing

    with tempfile.TemporaryDirectory() as scratch:
        server = S3Server(Path(scratch))
        try:
            server.start()
        except S3ServerMissing as missing:
            raise UsageError(f"--source: {missing}") from missing
        before = {name: os.environ.get(name) for name in server.env}
        os.environ.update(server.env)
        try:
            server.make_bucket(_BUCKET)
            files = server.filesystem()
            for tar in tars:
                files.put_file(str(tar), f"{_BUCKET}/in/{tar.name}")
            assert server.pid is not None  # noqa: S101 - it has just answered
            yield Place(name=S3, source=f"s3://{_BUCKET}/in", output=f"s3://{_BUCKET}/out", beside=(server.pid,))
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            server.stop()
