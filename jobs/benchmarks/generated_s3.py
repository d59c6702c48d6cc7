"""An S3 server with one bucket of shards that exist only in its listing: `python -m jobs.benchmarks.generated_s3 SHARDS FILE`.

Real requests, real XML, a thousand keys a page; every object is gone once it is asked for. It writes its URL, and when
the first objects were asked for (Unix seconds), into FILE, one a line.
"""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TextIO
from urllib.parse import parse_qs, urlsplit

BUCKET = "generated"
PREFIX = "photographs/2026/train/"
PAGE = 1000
SHARD_BYTES = 100_000_000
_STAMPS = 100

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
_ENTRY = (
    "<Contents><Key>{prefix}{number:07d}.tar</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{etag:032x}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
_GONE = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Message>It was never there.</Message></Error>'


def page(shards: int, first: int) -> str:
    """The answer to ListObjectsV2 that begins with shard `first`."""
    stop = min(shards, first + PAGE)
    entries = "".join(
        _ENTRY.format(prefix=PREFIX, number=number, etag=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128),
                      size=SHARD_BYTES + number)
        for number in range(first, stop)
    )  # fmt: skip
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{stop}</NextContinuationToken>"
    about = f"<Name>{BUCKET}</Name><KeyCount>{stop - first}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
    return _HEAD + about + (more if stop < shards else "<IsTruncated>false</IsTruncated>") + entries + "</ListBucketResult>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    shards = 0
    stamps = 0
    log: TextIO = sys.stderr

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if "list-type" in query:
            self._answer(200, page(self.shards, int(query.get("continuation-token", ["0"])[0])))
            return
        if type(self).stamps < _STAMPS:
            type(self).stamps += 1
            self.log.write(f"{time.time():.3f}\n")
            self.log.flush()
        self._answer(404, _GONE)

    do_HEAD = do_GET

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not a word: it would be a million lines."""


def serve(shards: int, file: str) -> None:
    """Serve until the process is ended."""
    with open(file, "w", encoding="utf-8") as log:
        _Handler.shards, _Handler.log = shards, log
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        log.write(f"http://127.0.0.1:{server.server_address[1]}\n")
        log.flush()
        server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
