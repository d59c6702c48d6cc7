"""Other planned objects: who doubts whether a store answers asks for some of them."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from pipeline.errors import ObjectMissing
from pipeline.run.plan import read_plan_rows
from pipeline.run.span import Span

SAMPLE = 16  # of the objects of a plan file


class Beside:
    """Some of the objects that are planned beside a source, spread over the plan file, which is read once for that."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._samples: dict[str, tuple[str, ...]] = {}

    def of(self, span: Span) -> Iterator[str]:
        """URIs to fetch: those that came with the span, then of the same plan file, or of shards. Raises `StorageError`."""
        yield from span.others
        yield from self._sample(span.source.uri) if span.source.kind == "image" else self._shards()

    def _shards(self) -> tuple[str, ...]:
        with suppress(ObjectMissing):  # the end of the plan
            number = 0
            while True:
                name = f"plan/{number:05d}.parquet"
                if any(shard.kind != "image" for _, shard in islice(read_plan_rows(self._output, name, 0, 1), 1)):
                    return self._sample(name)
                number += 1
        return ()

    def _sample(self, name: str) -> tuple[str, ...]:
        if name not in self._samples:
            uris = [shard.uri for _, shard in read_plan_rows(self._output, name, 0, None)]
            self._samples[name] = tuple(uris[:: max(1, len(uris) // SAMPLE)][:SAMPLE])
        return self._samples[name]
