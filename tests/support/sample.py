"""The bundled photographs, which real labels are made of; the made-up ones of other tests are background all over."""

import tarfile

from tests.conftest import ROOT


def sample() -> list[tuple[str, bytes]]:
    """Name and bytes of each, in the order of the shards."""
    found = []
    for shard in sorted((ROOT / "jobs" / "sample").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found.append((member.name, file.read()))
    return found
