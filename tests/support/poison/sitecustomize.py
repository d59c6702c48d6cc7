"""On the PYTHONPATH of a job, this makes a decoder that dies or hangs on some images: real signals, and a real loop in C.

An image is poison by what its file ends with, behind the end of the JPEG, where a decoder does not look.
"""

import ctypes
import os
import re
import time

CRASHES, HANGS, SLEEPS = b"<crash>", b"<hang>", b"<sleep>"


def _poison(data: bytes) -> None:
    if data.endswith(CRASHES):
        ctypes.string_at(0)  # a real one, in this very thread; a signal that is sent may arrive when the image is done
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


if os.environ.get("MASKFLEET_TEST_POISON"):
    _install()
