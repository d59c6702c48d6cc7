"""Other planned objects: who doubts whether a store answers asks for some of them."""

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

SAMPLE = 16  # of the objects of a plan file
FILES = 256  # of those below one folder: whoever removed more of them one after the other meets a file that is there
FOLDERS = 16  # of which it is remembered what is planned there


class Beside:
    """Some of the objects that are planned beside a source, spread over the plan file, which is read once for that."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._samples: dict[str, tuple[SourceObject, ...]] = {}
        self._below: OrderedDict[str, tuple[SourceObject, ...]] = OrderedDict()  # by folder

    def of(self, span: Span, uri: str) -> Iterator[str]:
        """URIs to fetch: those that came with the span, then of the same plan file, or of shards. Raises `StorageError`.

        uri: the object in doubt. Of a local file those come, too, that are planned below the last folder on its way that is
        there, and none comes that is not there as it was planned: where a disk is not mounted others may lie. If nothing else
        is planned there, any image or shard in its own folder counts.
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
        """Of plan files: whoever reads one that is not there has met the end."""
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
        """Some of those of all plan files, which are read for each such folder."""
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
    """At most so many, of all over."""
    count = min(max_count, len(shards))
    return tuple(shards[number * len(shards) // count] for number in range(count))


def _is_as_planned(shard: SourceObject) -> bool:
    """Is this local file there, as it was listed? Lists of images say no more than their names."""
    if scheme_of(shard.uri) != "file":
        return False
    try:
        found = store_for(shard.uri).stat(shard.uri)
    except StorageError:
        return False
    return shard.version is None or (found.size, found.version) == (shard.size, shard.version)
