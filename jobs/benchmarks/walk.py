"""Requests and bytes that it takes to find where the parts of a tar begin, on a real S3 server that counts.

`python -m jobs.benchmarks.walk [--members 30000 --member-bytes 10000]`; the third column is what so many requests of 25 ms,
one after the other, would take.
"""

import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

import click

from jobs.benchmarks.metered_s3 import metered_s3
from jobs.command import run_job
from pipeline.output.parts import PART_BYTES
from pipeline.shards.base import ReadOptions, SourceObject
from pipeline.shards.tar import part_starts
from pipeline.storage import store_for, writable_store_for

_BUCKET, _REQUEST_S, _PART_IMAGES = "walk", 0.025, 256


@click.command()
@click.option("--members", default=30_000, show_default=True)
@click.option("--member-bytes", default=10_000, show_default=True)
def main(members: int, member_bytes: int) -> None:
    """Walk one tar."""
    run_job(lambda: _walk(members, member_bytes))


def _walk(members: int, member_bytes: int) -> int:
    uri = f"s3://{_BUCKET}/x.tar"
    with tempfile.TemporaryDirectory() as scratch, metered_s3(Path(scratch), _BUCKET) as server:
        os.environ.update(server.environment)
        writable_store_for(uri).create(uri, _tar(members, member_bytes))
        info = store_for(uri).stat(uri)
        shard = SourceObject(uri=uri, kind="tar", size=info.size, version=info.version)
        before, started = server.requests()["GET"], time.perf_counter()
        parts = sum(1 for _ in part_starts(store_for(uri), shard, ReadOptions(), _PART_IMAGES, PART_BYTES))
        seconds, gets = time.perf_counter() - started, server.requests()["GET"] - before
    print(
        f"{members:,} members of {member_bytes:,} bytes, {parts} parts: {gets:,} GETs, {seconds:.1f} s here, "
        f"{gets * _REQUEST_S:.1f} s at 25 ms a request"
    )
    return 0


def _tar(members: int, member_bytes: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for number in range(members):
            member = tarfile.TarInfo(f"{number:08d}.jpg")
            member.size = member_bytes
            tar.addfile(member, io.BytesIO(bytes(member_bytes)))
    return sink.getvalue()


if __name__ == "__main__":
    main()
