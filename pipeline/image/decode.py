"""Encoded bytes -> RGB photograph, or a `BadImage` that says why not."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.errors import BadImage, CorruptImage, ImageTooLarge, UnsupportedFormat

Image.MAX_IMAGE_PIXELS = None  # the run has a limit of its own, which is checked before any pixel is decoded
# Images of up to 32 megapixels lie in one block, so that `resize` reads their pixels without a copy. The block of one image is
# kept for the next: else a third of the time of a 12-megapixel JPEG goes into page faults. Pillow's variables for these
# settings are PILLOW_BLOCK_SIZE and PILLOW_BLOCKS_MAX.
Image.core.set_block_size(128 << 20)  # type: ignore[attr-defined]
Image.core.set_blocks_max(1)  # type: ignore[attr-defined]
ImageFile.LOAD_TRUNCATED_IMAGES = False

# A TIFF with one of these extensions is a camera raw, and its first image is a thumbnail.
RAW_EXTENSIONS = frozenset(
    {"3fr", "arw", "cr2", "dcr", "dng", "erf", "fff", "iiq", "k25", "kdc", "mef", "mos", "nef", "nrw", "orf", "pef", "raw", "rw2",
     "rwl", "sr2", "srf", "srw"}
)  # fmt: skip
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF")  # MPO, which phones write, opens as JPEG
_ORIENTATION_TAG = 0x0112
_NEW_SUBFILE_TYPE_TAG, _REDUCED = 254, 1  # TIFF 6.0, section 8: bit 0 marks a smaller version of another image
_BITS_PER_SAMPLE_TAG, _PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 258, 262, 0
_DNG_VERSION_TAG = 50706
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CR2_HEADER = (b"II*\0\x10\0\0\0CR", "CR2")  # the first directory is at byte 16, so no pixels of a plain TIFF lie at 8
_ROOM_BYTES, _ROOM_BYTES_A_PIXEL = 32 << 20, 16  # about twice what the largest decoder, WebP's with two canvases, takes
_SIDEWAYS = 5  # from this orientation on, width and height are swapped
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_UNSUPPORTED_MAGIC = (
    (4, b"ftyphei", "HEIC"), (4, b"ftyphev", "HEIC"), (4, b"ftypmif1", "HEIF"), (4, b"ftypmsf1", "HEIF"), (4, b"ftypavi", "AVIF"),
    (0, b"\xff\x0a", "JPEG XL"), (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"), (0, b"\xffO\xffQ", "JPEG 2000"),
    (0, b"GIF8", "GIF"), (0, b"8BPS", "PSD"), (0, b"<svg", "SVG"), (0, b"%PDF", "PDF"), (0, b"v/1\x01", "OpenEXR"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Photograph:
    """A decoded photograph.

    stored: RGB as stored in the file, not upright yet; at 1/2, 1/4 or 1/8 of the size if `decode` got a `min_side`.
    turn: EXIF orientation (1 to 8) that `stored` still has.
    orientation: EXIF orientation (1 to 8) that the file states.
    stored_size: (width, height) in the file.
    """

    stored: Image.Image
    turn: int
    orientation: int
    stored_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright original."""
        return self.stored_size[::-1] if self.turn >= _SIDEWAYS else self.stored_size

    @property
    def image(self) -> Image.Image:
        """The upright RGB image. Each call turns it anew, which for a large image takes as long as decoding."""
        return self.stored.transpose(_TRANSPOSE[self.turn]) if self.turn in _TRANSPOSE else self.stored


def decode(data: bytes, *, max_source_pixels: int, min_side: int | None = None, name: str = "") -> Photograph:
    """The first frame of an encoded image as RGB, 8 bits per channel.

    Alpha is dropped as `PIL.Image.convert("RGB")` does; 16-bit gray keeps its high byte.
    min_side: a JPEG is decoded at 1/2, 1/4 or 1/8 (libjpeg's scaled DCT) if its short side keeps this many pixels.
    name: the file name, if there is one: some camera raws are TIFFs, and only their name tells.
    Raises `CorruptImage`, `UnsupportedFormat` or `ImageTooLarge`, whatever the bytes are; and `MemoryError` if memory is short,
    which may be the fault of this process, and may be over in a moment.
    """
    if not data:
        raise CorruptImage("zero bytes")
    for offset, magic, kind in _UNSUPPORTED_MAGIC:
        if data.startswith(magic, offset):
            raise UnsupportedFormat(f"{kind} cannot be decoded here: convert it to JPEG or PNG")
    if (raw := _raw_kind(data, name)) is not None:
        raise _camera_raw(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about oddities in EXIF and TIFF that it can read all the same
        image = _open(data, max_source_pixels)
        width, height = image.size
        if width * height > max_source_pixels:
            raise ImageTooLarge(f"{width}x{height} pixels; --max-source-pixels is {max_source_pixels}")
        return photograph_of(image, min_side)


def photograph_of(image: Image.Image, min_side: int | None = None) -> Photograph:
    """An open image as RGB. `min_side` and errors are those of `decode`.

    An image that cannot be loaded is closed: else a second `load` would return the pixels before the damage, without an error.
    """
    width, height = image.size
    try:
        return _photograph(image, min_side)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # decoders raise any error on damaged data; the fault is this image's own
        raise _refusal(error, width * height) from error


def _refusal(error: Exception, pixels: int) -> CorruptImage | MemoryError:
    """The error to raise for an error of a decoder. Most decoders do not say that memory was short, so this is tried here."""
    try:
        bytes(_ROOM_BYTES + _ROOM_BYTES_A_PIXEL * pixels)  # zeros: the kernel reserves these, but nothing is written
    except (MemoryError, OverflowError):
        return MemoryError(f"{type(error).__name__}: {error}")
    return CorruptImage(f"{type(error).__name__}: {error}")


def _photograph(image: Image.Image, min_side: int | None) -> Photograph:
    size, tiff = image.size, isinstance(image, TiffImageFile)
    if isinstance(image, TiffImageFile):
        _refuse_thumbnail(image)
    # Pillow turns a TIFF while it loads it, and then forgets the orientation; it also raises then if EXIF is damaged. So a TIFF's
    # EXIF is read first. Other formats are loaded first: a PNG's EXIF may lie behind its pixels, and an error in the pixels must
    # not look like an error in EXIF.
    turned = _orientation(image) if tiff else None
    drafted = min_side is not None and image.draft(None, (min_side, min_side))
    try:
        image.load()
    except BaseException:
        image.close()
        raise
    rgb = _rgb(image)
    orientation = _orientation_or_1(image) if turned is None else turned
    return Photograph(rgb, orientation if turned is None else 1, orientation, size if drafted else rgb.size)


def _raw_kind(data: bytes, name: str) -> str | None:
    """The kind of a camera raw that begins as a TIFF does; None if the bytes are no known camera raw."""
    if not data.startswith(_TIFF_MAGIC):
        return None
    extension = name.partition("?")[0].rpartition(".")[2].lower()
    if extension in RAW_EXTENSIONS:
        return extension.upper()
    magic, kind = _CR2_HEADER
    return kind if data.startswith(magic) else None


def _camera_raw(kind: str) -> UnsupportedFormat:
    return UnsupportedFormat(f"{kind} is a camera raw, whose first image is a thumbnail: convert it to JPEG or PNG")


def _refuse_thumbnail(image: TiffImageFile) -> None:
    """Raise `UnsupportedFormat` if the first image of a TIFF is not the photograph."""
    if image.tell():
        return  # the caller chose this frame
    if _DNG_VERSION_TAG in image.tag_v2:
        raise _camera_raw("DNG")
    kind = image.tag_v2.get(_NEW_SUBFILE_TYPE_TAG)
    if isinstance(kind, int) and kind & _REDUCED:
        raise UnsupportedFormat("the first image of this TIFF is a thumbnail (of a camera raw?): convert it to JPEG or PNG")


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise CorruptImage(f"not an image (begins with {data[:8]!r})") from error
    except MemoryError:
        raise
    except Exception as error:  # as above: a damaged header can raise anything
        raise _refusal(error, min(max_pixels, _webp_pixels(data))) from error


def _webp_pixels(data: bytes) -> int:
    """Pixels that the header of a WebP states (RFC 9649): its canvas is allocated when it is opened. 0 for other formats."""
    kind = data[12:16] if data.startswith(b"RIFF") else b""
    if kind == b"VP8X":
        return (int.from_bytes(data[24:27], "little") + 1) * (int.from_bytes(data[27:30], "little") + 1)
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        return (int.from_bytes(data[26:28], "little") & 0x3FFF) * (int.from_bytes(data[28:30], "little") & 0x3FFF)
    return 0


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 if EXIF has none, or an invalid one. May raise any error if EXIF is damaged."""
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _orientation_or_1(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image; 1 also if EXIF is damaged."""
    try:
        return _orientation(image)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - EXIF is a jungle of its own; the pixels are good
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        return _high_byte(image)
    if image.mode == "F":
        raise _no_range("float")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit gray -> its high byte; other integers have no defined range."""
    if isinstance(image, TiffImageFile):
        if image.mode == "I":  # whatever its pixels are: else the light would decide which images of a camera fail
            raise _no_range("32-bit or signed integer")
        if _first(image, _BITS_PER_SAMPLE_TAG) == 12:
            raise _no_range("12-bit")  # Pillow reads them as 16 bits, and all pixels are dark
        if _first(image, _PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:  # Pillow inverts only up to 8 bits
            raise UnsupportedFormat("16-bit pixels of which 0 is white: convert to 8 bits")
    gray = np.asarray(image.convert("I"))
    if gray.min() < 0 or gray.max() > 0xFFFF:
        raise _no_range("32-bit integer")
    return Image.fromarray((gray >> 8).astype(np.uint8)).convert("RGB")


def _no_range(kind: str) -> UnsupportedFormat:
    return UnsupportedFormat(f"{kind} pixels have no defined range: convert to 8 bits")


def _first(image: TiffImageFile, tag: int) -> object:
    value = image.tag_v2.get(tag)
    return value[0] if isinstance(value, tuple) and value else value
