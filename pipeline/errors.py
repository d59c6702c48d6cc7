"""Every error that maskfleet raises on purpose.

- `MaskfleetError`: one line for the user, and the exit code of the job
  - `Bug` (1): a fault of maskfleet in a worker
  - `UsageError` (2): wrong flags, config, weights or classes
    - `RunMismatch`: this OUT was made with other settings
    - `ShardChanged`: a planned shard has another size or ETag now
    - `OutsideInputs`: a row of a run names an object that is no input of the run
    - `NewerFormat`: a newer maskfleet wrote a file, in a format that this version does not know
  - `BudgetExceeded` (3): more failures, or more truncated shards, than allowed; labels are kept
  - `NotReachable` (4): input or storage cannot be reached, so nothing could start
    - `UnknownScheme`: no store reads such URIs
  - `Incomplete` (5): work remains; the same command goes on
    - `StorageError`: the store failed, and retries did not help
      - `StorageRefused`: the store refuses the key, the token or the bucket, so all objects
        - `NotExclusive`: the store cannot create an object only if there is none
      - `HostUnreachable`: there is no such host, or the host takes no connection; or the whole network is gone
      - `ObjectMissing`, `ObjectDenied`: the store answers, but does not have, or does not give, this object
        - `ForbiddenAddress` (an `ObjectDenied`): an address that maskfleet never asks
      - `ObjectTooLarge`: the object has more bytes than the reader takes
      - `ObjectChanged`: an object changed since it was listed
  - `Damaged` (7): the output is not what its footers promise
- `BadImage`: data, not an error of the run: it becomes one row of `failures/`
"""

import re

_ADDRESS = re.compile(r"\s*<[^<>]*\bat 0x[0-9a-f]+>")
_PATH = re.compile(r"(?:[a-z][a-z0-9+.-]*://|(?<![\w.])/)[^\s'\"]*/[^\s'\"]*")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
MAX_MESSAGE_CHARS = 200


def printable(message: str) -> str:
    """`message` without characters that move a terminal's cursor or reverse its text; line breaks stay."""
    return "\n".join(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", line) for line in message.split("\n"))


def clean(message: str) -> str:
    """`message` on one line, without memory addresses and paths, cut at 200 characters.

    So a part has equal failure messages, wherever and whenever it is made.
    """
    message = _PATH.sub("…", _ADDRESS.sub("", _UNPRINTABLE.sub(" ", message)))
    return message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 1] + "…"


class MaskfleetError(Exception):
    """An error with one line for the user. exit_code: of the job."""

    exit_code = 1


class Bug(MaskfleetError):
    """A fault of maskfleet in a worker; the message is its traceback."""


class UsageError(MaskfleetError):
    """Wrong usage or configuration."""

    exit_code = 2


class RunMismatch(UsageError):
    """The output was begun with other settings."""


class ShardChanged(UsageError):
    """A planned shard or image is not the object that was planned."""


class OutsideInputs(UsageError):
    """A row of a run names an object that is no input of the run, so the object is not read."""


class NewerFormat(UsageError):
    """A file of a run is in a format that only a newer maskfleet reads."""

    def __init__(self, what: str, found: object, known: int) -> None:
        super().__init__(f"{what} is of format {found}, this maskfleet reads up to {known}: use the version that wrote it")


class BudgetExceeded(MaskfleetError):
    """More failures or truncated shards than the user allows."""

    exit_code = 3


class NotReachable(MaskfleetError):
    """Input or storage cannot be reached, so nothing could start."""

    exit_code = 4


class UnknownScheme(NotReachable):
    """The URI has a scheme that no store reads, or that reads through another file system."""


class Incomplete(MaskfleetError):
    """Work remains; the same command goes on."""

    exit_code = 5


class StorageError(Incomplete):
    """The store failed, and retries did not help. code: the store's own error code, such as SlowDown."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class StorageRefused(StorageError):
    """The store refuses all objects: unknown key, bad signature, expired token, no such bucket. Retries do not help."""


class NotExclusive(StorageRefused):
    """The store cannot create an object only if there is none, so no output may go there."""


class ObjectChanged(StorageError):
    """The object is not the one that was listed (size, ETag or mtime)."""


class HostUnreachable(StorageError):
    """There is no such host, or the host takes no connection; or the network of this machine is gone."""


class ObjectMissing(StorageError):
    """The store answers, but has no such object."""


class ObjectDenied(StorageError):
    """The store answers, but refuses this object."""


class ForbiddenAddress(ObjectDenied):
    """An address that maskfleet never asks, such as a cloud's metadata service."""


class ObjectTooLarge(StorageError):
    """The object has more bytes than the reader takes."""


class Damaged(MaskfleetError):
    """The output does not match what its footers promise."""

    exit_code = 7


class BadImage(Exception):
    """An image that cannot be labelled: it becomes a row of `failures/`.

    kind: the name of the error. stage: the stage that failed: read, decode or infer.
    """

    stage = "decode"

    def __init__(self, message: str) -> None:
        super().__init__(clean(message))

    @property
    def kind(self) -> str:
        """The value of the `error` column."""
        return type(self).__name__

    @property
    def message(self) -> str:
        """The value of the `message` column."""
        return str(self)


class ReadFailure(BadImage):
    """The bytes of the image cannot be had."""

    stage = "read"


class MissingImage(ReadFailure):
    """A null in the image column, or an object that is gone."""


class DeniedImage(ReadFailure):
    """An object that this user may not read, in a store that answers for other objects."""


class ObjectUnreachable(ReadFailure):
    """A single object of the web whose host does not exist or takes no connection, while other hosts answer."""


class LinkMember(ReadFailure):
    """A tar member that is a link, a device or sparse, and holds no image bytes of its own."""


class AmbiguousImage(ReadFailure):
    """One key of a tar has images with two extensions."""


class BrokenShard(ReadFailure):
    """The rest of the shard cannot be read: truncated, damaged or gone."""


class DamagedRowGroup(ReadFailure):
    """A row group of a Parquet shard cannot be read; the next ones can."""


class CorruptImage(BadImage):
    """Not an image, or a damaged image."""


class UnsupportedFormat(BadImage):
    """An image in a format that maskfleet does not decode."""


class ImageTooLarge(BadImage):
    """More pixels or bytes than allowed."""


class ImageTimeout(BadImage):
    """Decoding and labelling together take longer than `--image-timeout-s`, in an isolated child."""


class KillsItsProcess(BadImage):
    """The decoder or the network ends the process with this image, even an isolated child."""


class InferenceFailed(BadImage):
    """The network refused this image."""

    stage = "infer"
