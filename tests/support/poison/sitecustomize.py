"""If this is on the PYTHONPATH of a job, decoders die or hang on some images: with real signals, and a real loop in C.

The last bytes of its file make an image poison; they lie after the end of the JPEG, where a decoder does not look. `UNPACKED`
kills a process that unpacks it from Parquet; unpacking `STUCK` takes ten minutes.
"""

import ctypes
import os
import re
import time
from collections.abc import Iterator

CRASHES, HANGS, SLEEPS, UNPACKED, STUCK = b"<crash>", b"<hang>", b"<sleep>", b"<unpacked>", b"<stuck>"


def _poison(data: bytes) -> None:
    if data.endswith(CRASHES):
        ctypes.string_at(0)  # a real crash in this thread; a signal that is sent may arrive after the image is done
    if data.endswith(HANGS):
        re.match(r"(a+)+$", "a" * 64 + "b")  # exponential, in C, and it keeps Python's lock
    if data.endswith(SLEEPS):
        time.sleep(600)


def _install() -> None:
    import io

    from PIL import Image

    real = Image.open

    def poisoned(file: object, *arguments: object, **options: object) -> object:
        if isinstance(file, io.BytesIO):
            _poison(file.getvalue()[-16:])
        return real(file, *arguments, **options)  # type: ignore[arg-type]

    Image.open = poisoned  # type: ignore[assignment]

    from pyarrow.parquet import ParquetFile

    batches = ParquetFile.iter_batches

    def poisoned_batches(self: ParquetFile, *arguments: object, **options: object) -> Iterator[object]:
        for batch in batches(self, *arguments, **options):
            held = b"".join(buffer.to_pybytes() for column in batch for buffer in column.buffers() if buffer is not None)
            if UNPACKED in held:
                _poison(CRASHES)
            if STUCK in held:
                _poison(SLEEPS)
            yield batch

    ParquetFile.iter_batches = poisoned_batches


if os.environ.get("MASKFLEET_TEST_POISON"):
    _install()
