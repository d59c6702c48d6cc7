"""`python -m tests.fuzz.batch FIRST STOP FILE`: some seeds, one after the other; FILE holds the one that is at work."""

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz.mutations import mutated
from tests.fuzz.worker import Worker


def main(first: int, stop: int, file: Path) -> None:
    """Print what was found, by name and count."""
    found = Counter[str]()
    at = os.open(file, os.O_CREAT | os.O_WRONLY)
    with tempfile.TemporaryDirectory(prefix="maskfleet-fuzz-") as folder:
        worker = Worker(Path(folder))
        for seed in range(first, stop):
            os.pwrite(at, f"{seed:<12}".encode(), 0)
            found.update(worker.label(mutated(seed)))
    for name, count in found.items():
        print(f"found {name} {count}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
