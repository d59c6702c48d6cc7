"""An S3 server with one bucket of shards that exist only in its listing: `python -m jobs.benchmarks.generated_s3 SHARDS FILE`.

Real requests, real XML, a thousand keys a page; every shard is gone once it is asked for. It writes its URL, and when
the first objects were asked for (Unix seconds), into FILE, one a line. With a third argument, of `GeneratedParts`, it has an
output too, below `out/`: its parts exist only in the listing and in their footers, and all that is put there is kept.
"""

import hashlib
import json
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TextIO
from urllib.parse import parse_qs, unquote, urlsplit

from jobs.benchmarks.generated_parts import SHARD_BYTES, GeneratedParts, shard_etag
from pipeline.storage.base import PAGE

BUCKET = "generated"
PREFIX = "photographs/2026/train/"
OUT = "out/"
REQUESTS = "/requests"  # what it was asked so far, as JSON; not of any bucket
_STAMPS = 100

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
_ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
_ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>It is not so.</Message></Error>'

Entry = tuple[str, str, int]  # key, ETag, bytes


def page(entries: list[Entry], following: int | None) -> str:
    """The answer to ListObjectsV2 with these entries; `following`: where the next one begins."""
    found = "".join(_ENTRY.format(key=key, etag=etag, size=size) for key, etag, size in entries)
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{following}</NextContinuationToken>"
    about = f"<Name>{BUCKET}</Name><KeyCount>{len(entries)}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
    return _HEAD + about + ("<IsTruncated>false</IsTruncated>" if following is None else more) + found + "</ListBucketResult>"


class Bucket:
    """What is in it: shards in the listing, parts in listing and footers, and what was put."""

    def __init__(self, shards: int, parts: GeneratedParts | None = None) -> None:
        self._shards, self._parts = shards, parts
        self._kept: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self.requests = Counter[str]()

    def count(self, kind: str) -> None:
        """One request more."""
        with self._lock:
            self.requests[kind] += 1

    def list(self, prefix: str, first: int) -> str:
        """A page from the entry `first` on."""
        masks = f"{OUT}masks/"
        if self._parts is not None and prefix.startswith(masks):
            places = self._parts.range_of(prefix.removeprefix(masks))
            count = len(places)
            found = [
                (masks + str(name), name.version[5:], name.size) for name in map(self._parts.part, places[first : first + PAGE])
            ]
        elif prefix.startswith(OUT):
            kept = sorted(key for key in self._kept if key.startswith(prefix))
            count = len(kept)
            found = [(key, _etag(self._kept[key]), len(self._kept[key])) for key in kept[first : first + PAGE]]
        else:
            count = self._shards
            found = [
                (f"{PREFIX}{number:07d}.tar", shard_etag(number), SHARD_BYTES + number)
                for number in range(first, min(count, first + PAGE))
            ]
        return page(found, first + PAGE if first + PAGE < count else None)

    def get(self, key: str, start: int, stop: int | None) -> tuple[bytes, str, int] | None:
        """Bytes from `start`, the ETag and the size of the whole; None if there is no such object."""
        if self._parts is not None and (place := self._parts.place_of(key.removeprefix(f"{OUT}masks/"))) is not None:
            name, end = self._parts.part(place), self._parts.end_of(place)
            stop = name.size if stop is None else min(stop, name.size)
            zeros = max(0, min(stop, name.size - len(end)) - start)
            from_end = max(0, start - (name.size - len(end)))
            return bytes(zeros) + end[from_end : from_end + stop - start - zeros], name.version[5:], name.size
        data = self._kept.get(key)
        return None if data is None else (data[start:stop], _etag(data), len(data))

    def put(self, key: str, data: bytes, if_match: str | None, *, only_new: bool) -> str | None:
        """-> the ETag, or None if the condition does not hold."""
        with self._lock:
            there = self._kept.get(key)
            if (only_new and there is not None) or (if_match is not None and (there is None or _etag(there) != if_match)):
                return None
            self._kept[key] = data
            return _etag(data)

    def delete(self, key: str) -> None:
        """No error if there is none."""
        self._kept.pop(key, None)


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bucket = Bucket(0)
    stamps = 0
    log: TextIO = sys.stderr

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query, key = parse_qs(parts.query), self._key()
        if parts.path == REQUESTS:
            self._answer(200, json.dumps(self.bucket.requests).encode())
        elif "list-type" in query:
            self.bucket.count("LIST")
            prefix = query.get("prefix", [""])[0]
            self._answer(200, self.bucket.list(prefix, int(query.get("continuation-token", ["0"])[0])).encode())
        elif key.startswith(OUT):
            self._get(key)
        else:
            self.bucket.count(self.command)
            if type(self).stamps < _STAMPS:
                type(self).stamps += 1
                self.log.write(f"{time.time():.3f}\n")
                self.log.flush()
            self._refuse(404, "NoSuchKey")

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self.bucket.count("PUT")
        data = self.rfile.read(int(self.headers["Content-Length"]))
        match = self.headers.get("If-Match")
        only_new = self.headers.get("If-None-Match") == "*"
        etag = self.bucket.put(self._key(), data, match and match.strip('"'), only_new=only_new)
        if etag is None:
            self._refuse(412, "PreconditionFailed")
        else:
            self._answer(200, b"", ETag=f'"{etag}"')

    def do_DELETE(self) -> None:
        self.bucket.count("DELETE")
        self.bucket.delete(self._key())
        self._answer(204, b"")

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")

    def _get(self, key: str) -> None:
        footers = self.command == "GET" and key.startswith(f"{OUT}masks/")
        self.bucket.count("GET, footers" if footers else self.command)
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        start, _, end = asked.partition("-")
        found = self.bucket.get(key, int(start or 0), int(end) + 1 if end else None)
        match = self.headers.get("If-Match")
        if found is None:
            self._refuse(404, "NoSuchKey")
        elif match is not None and match.strip('"') != found[1]:
            self._refuse(412, "PreconditionFailed")
        else:
            self._answer(206 if asked else 200, found[0], found[2] if self.command == "HEAD" else None, ETag=f'"{found[1]}"')

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, _ERROR.format(code=code).encode())

    def _answer(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not a word: it would be a million lines."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # footers are asked for by 64 at once
    daemon_threads = True


def serve(shards: int, file: str, parts: GeneratedParts | None = None) -> None:
    """Serve until the process is ended."""
    with open(file, "w", encoding="utf-8") as log:
        _Handler.bucket, _Handler.log = Bucket(shards, parts), log
        server = _Server(("127.0.0.1", 0), _Handler)
        log.write(f"http://127.0.0.1:{server.server_address[1]}\n")
        log.flush()
        server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], GeneratedParts.from_json(sys.argv[3]) if len(sys.argv) > 3 else None)
