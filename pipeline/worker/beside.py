"""Other planned objects: if one object cannot be read, a worker asks for others, to see if the store answers at all."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice

from pipeline.errors import ObjectMissing, StorageError
from pipeline.output.span import Span
from pipeline.plan.plan import read_plan_rows
from pipeline.shards.base import SourceObject
from pipeline.shards.names import file_kind
from pipeline.storage import scheme_of, store_for
from pipeline.storage.answers import last_folder

SAMPLE = 16  # so many objects of a plan file
FILES = 256  # so many files below one folder: if fewer were removed one after the other, some file is still there
FOLDERS = 16  # the planned files of so many folders are kept in memory


class Beside:
    """Some of the objects that are planned beside a source: a sample that is spread over the plan file, and read once."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._samples: dict[str, tuple[SourceObject, ...]] = {}
        self._below: OrderedDict[str, tuple[SourceObject, ...]] = OrderedDict()  # by folder

    def of(self, span: Span, uri: str) -> Iterator[str]:
        """URIs to fetch: first those that came with the span, then others of the plan. Raises `StorageError`.

        For a single image the others come from its plan file, for a shard from the first plan file of shards. uri: the object in
        doubt. If this is a local file, planned files below the deepest existing folder of its path come too. No local file comes
        that differs from its plan row: if a disk is not mounted, other files may lie there. If no other file is planned there,
        any image or shard in the object's own folder counts.
        """
        yield from span.others
        planned = partial(self._sample, span.source.uri) if span.source.kind == "image" else self._shards
        if scheme_of(uri) != "file":
            yield from (each.uri for each in planned())
            return
        yield from (each.uri for each in planned() if each.uri != uri and _is_as_planned(each))
        folder, alone = last_folder(uri), True
        for each in self._files_below(folder):
            alone &= each.uri == uri
            if each.uri != uri and _is_as_planned(each):
                yield each.uri
        if alone and folder == os.path.dirname(uri):
            beside = (info.uri for info in store_for(folder).walk(folder) if file_kind(info.uri) in ("image", "tar", "parquet"))
            yield from islice(beside, SAMPLE)

    def _names(self) -> Iterator[str]:
        """Names of plan files, without an end: reading a file that is not there shows the end of the plan."""
        number = 0
        while True:
            yield f"plan/{number:05d}.parquet"
            number += 1

    def _shards(self) -> tuple[SourceObject, ...]:
        with suppress(ObjectMissing):  # the end of the plan
            for name in self._names():
                if any(shard.kind != "image" for _, shard in islice(read_plan_rows(self._output, name, 0, 1), 1)):
                    return self._sample(name)
        return ()

    def _sample(self, name: str) -> tuple[SourceObject, ...]:
        if name not in self._samples:
            rows = read_plan_rows(self._output, name, 0, None)
            self._samples[name] = _spread([shard for _, shard in rows], SAMPLE)
        return self._samples[name]

    def _files_below(self, folder: str) -> tuple[SourceObject, ...]:
        """Some planned files below a folder. All plan files are read once per folder."""
        root = folder.rstrip("/") + "/"
        if root not in self._below:
            found = list[SourceObject]()
            with suppress(ObjectMissing):
                for name in self._names():
                    rows = read_plan_rows(self._output, name, 0, None)
                    found += _spread([shard for _, shard in rows if shard.uri.startswith(root)], FILES)
            self._below[root] = _spread(found, FILES)
            if len(self._below) > FOLDERS:
                self._below.popitem(last=False)
        return self._below[root]


def _spread(shards: list[SourceObject], max_count: int) -> tuple[SourceObject, ...]:
    """At most `max_count` of the shards, spread evenly."""
    count = min(max_count, len(shards))
    return tuple(shards[number * len(shards) // count] for number in range(count))


def _is_as_planned(shard: SourceObject) -> bool:
    """Is this local file there, with the listed size and version? An image from a list has neither; then being there counts."""
    if scheme_of(shard.uri) != "file":
        return False
    try:
        found = store_for(shard.uri).stat(shard.uri)
    except StorageError:
        return False
    return shard.version is None or (found.size, found.version) == (shard.size, shard.version)
