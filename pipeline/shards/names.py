"""What a name tells: key and extension of a tar member, kind of a file."""

from typing import Literal

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"})
UNSUPPORTED_IMAGE_EXTENSIONS = frozenset(
    {"heic", "heif", "avif", "jxl", "jp2", "j2k", "gif",
     "svg", "psd", "dng", "cr2", "cr3", "nef", "arw", "raw", "exr", "hdr", "ico"}
)  # fmt: skip
COMPRESSED_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.lz4")
LIST_SUFFIXES = (".txt", ".csv", ".jsonl")

Kind = Literal["tar", "parquet", "image", "list", "compressed_tar", "other"]


def key_and_extension(member: str) -> tuple[str, str]:
    """Key and lower-case extension of a tar member, split at the first dot of the base name.

    >>> key_and_extension("train/0001.seg.PNG")
    ('train/0001', 'seg.png')
    """
    folder, slash, base = member.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def file_kind(name: str) -> Kind:
    """The kind of a file, by the end of its name. An image in a format that cannot be decoded is an image too."""
    base = name.rpartition("/")[2].lower()
    if base.endswith(".tar"):
        return "tar"
    if base.endswith(COMPRESSED_TAR_SUFFIXES):
        return "compressed_tar"
    if base.endswith((".parquet", ".pq")):
        return "parquet"
    if base.endswith(LIST_SUFFIXES):
        return "list"
    stem, _, extension = base.rpartition(".")
    if stem and extension in IMAGE_EXTENSIONS | UNSUPPORTED_IMAGE_EXTENSIONS:
        return "image"
    return "other"


def is_image_member(extension: str, wanted: str | None) -> bool:
    """Is a tar member with this whole extension an image of the shard?"""
    if wanted is not None:
        return extension == wanted
    return extension in IMAGE_EXTENSIONS or extension in UNSUPPORTED_IMAGE_EXTENSIONS
