"""A real S3 server for a benchmark. It counts its requests: SeaweedFS with its own metrics."""

import re
import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UsageError
from tests.support.s3_server import S3Server, S3ServerMissing

_COUNTED = re.compile(r'^SeaweedFS_s3_request_total\{[^}]*type="(\w+)"[^}]*\} (\S+)$', re.MULTILINE)


class Metered:
    """A running server: variables for its clients, and the requests so far."""

    def __init__(self, environment: dict[str, str], metrics: str) -> None:
        self.environment, self._metrics = environment, metrics

    def requests(self) -> Counter[str]:
        """The number of requests by kind since the server started."""
        with urllib.request.urlopen(self._metrics, timeout=10) as answer:
            counted = Counter[str]()
            for kind, count in _COUNTED.findall(answer.read().decode()):
                counted[kind] += round(float(count))
            return counted


@contextmanager
def metered_s3(folder: Path, bucket: str) -> Iterator[Metered]:
    """A server on loopback with one bucket. Raises `UsageError` if the server is not installed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    class Server(S3Server):
        def _launch(self, weed: Path) -> None:
            wrapper = self.directory / "weed"
            wrapper.write_text(f'#!/bin/sh\nexec "{weed}" "$@" -metricsPort={port} -metricsIp=127.0.0.1\n')
            wrapper.chmod(0o755)
            super()._launch(wrapper)

    try:
        with Server(folder) as server:
            server.make_bucket(bucket)
            yield Metered(server.env, f"http://127.0.0.1:{port}/metrics")
    except S3ServerMissing as error:
        raise UsageError(str(error)) from error
