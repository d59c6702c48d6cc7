"""An S3 server with one bucket of shards that exist only in its listing: `python -m tests.support.generated_s3 SHARDS FILE`.

Requests and XML are real, with a thousand keys per page; a request for a shard is answered with 404. The server writes its URL
into FILE, and reports which requests came, and when. A third argument (`GeneratedParts` as JSON) adds an output below `out/`:
its parts exist only in the listing and in their footers, and every object that is put there is kept.
"""

import hashlib
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.storage.base import PAGE
from tests.support.generated_parts import SHARD_BYTES, GeneratedParts, shard_etag

BUCKET = "generated"
PREFIX = "photographs/2026/train/"
OUT = "out/"
_ASKED = "/asked"  # answers with the requests since the last call of this path, as JSON
_MAX_TIMES = 100

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
_ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
_ERROR = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>It is not so.</Message></Error>'

Entry = tuple[str, str, int]  # key, ETag, bytes


def page(entries: list[Entry], following: int | None) -> str:
    """The answer to ListObjectsV2 with these entries. following: number of the first entry of the next page, or None."""
    found = "".join(_ENTRY.format(key=key, etag=etag, size=size) for key, etag, size in entries)
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{following}</NextContinuationToken>"
    about = f"<Name>{BUCKET}</Name><KeyCount>{len(entries)}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
    return _HEAD + about + ("<IsTruncated>false</IsTruncated>" if following is None else more) + found + "</ListBucketResult>"


@dataclass(slots=True)
class Asked:
    """Requests of one kind. times: when the first 100 of them came. last: when the last one came (Unix seconds)."""

    count: int
    times: list[float]
    last: float


class Bucket:
    """A bucket with shards in its listing, parts in its listing and their footers, and objects that were put."""

    def __init__(self, shards: int, parts: GeneratedParts | None = None) -> None:
        self._shards, self._parts = shards, parts
        self._kept: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._asked: dict[str, list[float | int]] = {}  # count, last time, first times

    def count(self, kind: str) -> None:
        """Count a request."""
        with self._lock:
            found = self._asked.setdefault(kind, [0, 0.0])
            found[0], found[1] = int(found[0]) + 1, time.time()
            if len(found) < 2 + _MAX_TIMES:
                found.append(found[1])

    def asked(self) -> dict[str, list[float | int]]:
        """Requests since the last call, by kind: count, last time, first times."""
        with self._lock:
            found, self._asked = self._asked, {}
        return found

    def list(self, prefix: str, first: int) -> str:
        """A page of the listing from the entry `first` on."""
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
        """Bytes from `start` to `stop`, the ETag, and the size of the whole object; None if there is no such object."""
        if self._parts is not None and (place := self._parts.place_of(key.removeprefix(f"{OUT}masks/"))) is not None:
            name, end = self._parts.part(place), self._parts.end_of(place)
            stop = name.size if stop is None else min(stop, name.size)
            zeros = max(0, min(stop, name.size - len(end)) - start)
            from_end = max(0, start - (name.size - len(end)))
            return bytes(zeros) + end[from_end : from_end + stop - start - zeros], name.version[5:], name.size
        data = self._kept.get(key)
        return None if data is None else (data[start:stop], _etag(data), len(data))

    def put(self, key: str, data: bytes, if_match: str | None, *, only_new: bool) -> str | None:
        """Keep an object -> its ETag, or None if the condition does not hold."""
        with self._lock:
            there = self._kept.get(key)
            if (only_new and there is not None) or (if_match is not None and (there is None or _etag(there) != if_match)):
                return None
            self._kept[key] = data
            return _etag(data)

    def delete(self, key: str) -> None:
        """Remove an object. A missing object is no error."""
        self._kept.pop(key, None)


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bucket = Bucket(0)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query, key = parse_qs(parts.query), self._key()
        if parts.path == _ASKED:
            self._answer(200, json.dumps(self.bucket.asked()).encode())
        elif "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            self.bucket.count("LIST, parts" if prefix.startswith(f"{OUT}masks/") else "LIST")
            self._answer(200, self.bucket.list(prefix, int(query.get("continuation-token", ["0"])[0])).encode())
        elif key.startswith(OUT):
            self._get(key)
        else:
            self.bucket.count(f"{self.command}, shards")
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
        """Log nothing: it would be a million lines."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # 64 requests for footers come at once
    daemon_threads = True


@dataclass(frozen=True, slots=True)
class Generated:
    """A running server. environment: variables for a process that uses the server."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """The AWS variables of the server."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url, "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "generated", "AWS_SECRET_ACCESS_KEY": "generated",
        }  # fmt: skip

    def asked(self) -> dict[str, Asked]:
        """The requests since the last call, by kind."""
        with urllib.request.urlopen(self.url + _ASKED, timeout=60) as answer:
            found = json.loads(answer.read())
        return {kind: Asked(count, times, last) for kind, (count, last, *times) in found.items()}

    def put(self, name: str, data: bytes) -> None:
        """Keep an object of the output."""
        request = urllib.request.Request(f"{self.url}/{BUCKET}/{OUT}{name}", data=data, method="PUT")
        urllib.request.urlopen(request, timeout=60).close()

    def get(self, name: str) -> bytes:
        """The bytes of an object of the output."""
        with urllib.request.urlopen(f"{self.url}/{BUCKET}/{OUT}{name}", timeout=60) as answer:
            return bytes(answer.read())


@contextmanager
def generated_s3(shards: int, scratch: Path, parts: GeneratedParts | None = None) -> Iterator[Generated]:
    """A server in a process of its own, while the body runs."""
    told = scratch / "generated-s3.txt"
    more = [] if parts is None else [parts.to_json()]
    server = subprocess.Popen([sys.executable, "-m", "tests.support.generated_s3", str(shards), str(told), *more])
    try:
        while not (told.exists() and told.read_text().endswith("\n")):
            time.sleep(0.01)
        yield Generated(told.read_text().strip())
    finally:
        server.terminate()
        server.wait()
        told.unlink(missing_ok=True)


def _serve(shards: int, file: str, parts: GeneratedParts | None = None) -> None:
    """Serve until the process is ended."""
    _Handler.bucket = Bucket(shards, parts)
    server = _Server(("127.0.0.1", 0), _Handler)
    Path(file).write_text(f"http://127.0.0.1:{server.server_address[1]}\n", encoding="utf-8")
    server.serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2], GeneratedParts.from_json(sys.argv[3]) if len(sys.argv) > 3 else None)
