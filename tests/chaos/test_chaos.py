"""A few seeds of the chaos runs, each kind of death among them; `make chaos` runs many."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import ChaosCluster, chaos_cluster
from tests.chaos.run import Reference, reference_of, run_seed

SEEDS = (0, 1, 2, 3, 4)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosCluster]:
    """Two raylets that work."""
    with chaos_cluster(tmp_path_factory.mktemp("chaos") / "trace") as found:
        yield found


@pytest.fixture(scope="module")
def reference(cluster: ChaosCluster, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference_of(tmp_path_factory.mktemp("reference"), cluster)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_dies_the_result_is_that_of_an_undisturbed_run(
    seed: int, cluster: ChaosCluster, reference: Reference, tmp_path: Path
) -> None:
    result = run_seed(seed, tmp_path, cluster, reference)
    assert result.is_right, result
