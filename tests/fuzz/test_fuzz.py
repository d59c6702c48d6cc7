"""5,000 mutated inputs through a worker; `make fuzz` takes 100,000, in processes that may crash."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.mutations import Input, inputs, mutated
from tests.fuzz.worker import Worker

pytestmark = pytest.mark.slow
found: Counter[str] = Counter()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return Worker(tmp_path_factory.mktemp("fuzz"))


@settings(max_examples=5_000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(given_input=inputs())
def test_each_is_in_masks_or_failures(worker: Worker, given_input: Input) -> None:
    found.update(worker.label(given_input))


def test_the_inputs_were_neither_all_whole_nor_all_broken() -> None:
    """Behind the test above: mutations that are always or never noticed would test nothing."""
    if not found:
        pytest.skip("the test above did not run")
    assert min(found["mask"], found["CorruptImage"], found["BrokenShard"]) > 100


def test_a_seed_says_all() -> None:
    assert mutated(7) == mutated(7)
    assert len({mutated(seed).data for seed in range(100)}) > 90
