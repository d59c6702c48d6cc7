"""Canaries: no secret of a run's URIs, environment or configuration is found in anything that it leaves or says."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Finished
from tests.support.s3_server import S3Server
from tests.support.tars import photos

BUCKET = "secrets"
PASSWORD, QUERY = "canary-of-a-password", "canary-of-a-query"
FLAGS = ("--weights", "bundled", "--short-side", 64, "--part-images", 2, "--workers", 1, "--failure-budget", 1)


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its logs; short, as sockets lie there too."""
    folder = Path(tempfile.mkdtemp(prefix="mf-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def listed(s3: S3Server) -> tuple[str, list[str]]:
    """A list of presigned URLs, among them some that fail in every way; and the secrets in it."""
    s3.make_bucket(BUCKET)
    files = s3.filesystem()
    lines, secrets = [], []
    for name, data in [*photos(3), ("bad.jpg", b"no image")]:
        files.pipe_file(f"{BUCKET}/in/{name}", data)
        url = files.sign(f"{BUCKET}/in/{name}", expiration=3600)
        lines.append(url)
        secrets += [
            value for key, _, value in (pair.partition("=") for pair in url.partition("?")[2].split("&")) if "Signature" in key
        ]
    host = s3.endpoint.removeprefix("http://")
    lines += [
        f"http://user:{PASSWORD}@{host}/{BUCKET}/in/0001.jpg", f"http://{host}/{BUCKET}/absent.jpg?token={QUERY}",
        f"http://user:{PASSWORD}@{host}/{BUCKET}/gone.jpg?sig={QUERY}",
    ]  # fmt: skip
    files.pipe_file(f"{BUCKET}/list.txt", "\n".join(lines).encode())
    return f"s3://{BUCKET}/list.txt", [*secrets, PASSWORD, QUERY, s3.secret_key]


def _texts(s3: S3Server, folder: Path, ray_folder: Path) -> Iterator[tuple[str, bytes]]:
    """All that was left: objects as they lie there and as their readers see them, and Ray's logs."""
    files = s3.filesystem()
    files.invalidate_cache()
    for name in files.find(f"{BUCKET}/out"):
        data = files.cat_file(name)
        yield name, data
        if name.endswith(".parquet"):
            local = folder / "x.parquet"
            local.write_bytes(data)
            table = pq.read_table(local)
            yield (
                name,
                repr(
                    (table.schema.metadata, table.drop_columns([n for n in ("mask",) if n in table.column_names]).to_pylist())
                ).encode(),
            )
    for file in ray_folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            yield str(file), file.read_bytes()


@pytest.mark.slow
def test_no_secret_is_left_or_said(
    listed: tuple[str, list[str]], s3: S3Server, job: Callable[..., Finished], tmp_path: Path, ray_folder: Path
) -> None:
    uri, secrets = listed
    host = s3.endpoint.removeprefix("http://")
    config = tmp_path / "job.toml"
    config.write_text(f'input = ["{uri}", "http://user:{PASSWORD}@{host}/{BUCKET}/lost.jpg?sig={QUERY}"]\n')
    env = {"RAY_TMPDIR": str(ray_folder)}
    said = [
        job("segment", "--config", config, "--output", f"s3://{BUCKET}/out", *FLAGS, *more, env=env)
        for more in ((), ("--debug",), ("--dry-run",))
    ]
    alone = job("segment", "--input", uri, "--output", f"s3://{BUCKET}/out/one", *FLAGS, "--debug", env=env)
    weights = job("segment", "--input", uri, "--output", f"s3://{BUCKET}/out/two", *FLAGS,
                  "--weights", f"http://user:{PASSWORD}@{host}/{BUCKET}/lost.pth?sig={QUERY}", env=env)  # fmt: skip
    texts = [(f"job {number}", (done.out + done.err).encode()) for number, done in enumerate([*said, alone, weights])]
    texts += _texts(s3, tmp_path, ray_folder)
    assert any(b"0001" in text for _, text in texts)
    assert sum(name.endswith(".parquet") for name, _ in texts) >= 3
    assert any(name.endswith(".log") for name, _ in texts)
    found = [(name, secret[:24]) for name, text in texts for secret in secrets if secret.encode() in text]
    assert found == []
