"""The bundled photographs, which give real labels. The generated images of other tests are all background."""

import tarfile

from tests.conftest import ROOT


def sample() -> list[tuple[str, bytes]]:
    """Name and bytes of each photograph, in the order of the shards."""
    found = []
    for shard in sorted((ROOT / "jobs" / "sample").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found.append((member.name, file.read()))
    return found
