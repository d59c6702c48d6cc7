"""`--json FILE`: how a job ended, as one object, for scripts."""

import errno
import json
import os
import stat
import uuid
from contextlib import suppress
from typing import Any

from pipeline.errors import UsageError


class Report:
    """Writes what a job prints (`values`, as they become known), the exit code, and the error if there is one.

    The file of an earlier run is removed before the job begins. Without a `path` nothing is written.
    """

    def __init__(self, path: str | None) -> None:
        self.values: dict[str, Any] = {}
        self._path, self._in_place = path, False

    def begin(self) -> None:
        """Remove the file that is there. Raises `UsageError` if the file could not be written later; then it never is."""
        path, self._path = self._path, None
        if path is None:
            return
        try:
            self._in_place = not _remove(path)
            if not self._in_place:
                replace_file(path, b"")
                os.unlink(_real(path))
        except OSError as error:
            raise UsageError(f"--json {path}: {error.strerror}") from error
        self._path = path

    def end(self, code: int, error: tuple[str, str] | None) -> None:
        """Write the file. error: class and message. Raises `UsageError` if the file cannot be written now."""
        path, self._path = self._path, None
        if path is None:
            return
        told: dict[str, Any] = {} if error is None else {"error": {"class": error[0], "message": error[1]}}
        data = (json.dumps({**self.values, "exit_code": code, **told}, indent=2, ensure_ascii=False) + "\n").encode(
            "utf-8", "backslashreplace"
        )
        try:
            if self._in_place:
                with open(path, "wb") as file:
                    file.write(data)
            else:
                replace_file(path, data)
        except OSError as failed:
            raise UsageError(f"--json {path}: {failed.strerror}") from failed


def _real(path: str) -> str:
    return os.path.realpath(path)  # the target of a link is replaced, the link stays


def _remove(path: str) -> bool:
    """Remove a file; False if it can be written but not removed: a pipe or device, or a file that is a mount point."""
    real = _real(path)
    try:
        mode = os.stat(real).st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        return False
    try:
        os.unlink(real)
    except OSError:
        with open(real, "wb"):  # if it cannot be removed, it is emptied
            return False
    return True


def replace_file(path: str, data: bytes) -> None:
    """Write a file whole or not at all, so that no reader sees half of it."""
    real = _real(path)
    scratch = f"{real}.{uuid.uuid4().hex[:12]}"
    try:
        with open(scratch, "xb") as file:
            file.write(data)
        os.replace(scratch, real)
    except OSError:
        with suppress(OSError):
            os.unlink(scratch)
        raise
