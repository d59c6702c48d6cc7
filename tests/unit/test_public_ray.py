"""What is shipped rests on public names of Ray alone: those that it may move in any release are not even mentioned."""

import re

import pytest

from tests.conftest import ROOT

PRIVATE = re.compile(r"\bray(\.\w+)*\._\w+")
SHIPPED = sorted(path for folder in ("pipeline", "jobs") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("text", ["from ray.data._internal.stats import x", '"ray._private.node"', "ray._raylet", "ray.util._x"])
def test_a_private_name_is_known_as_one(text: str) -> None:
    assert PRIVATE.search(text)


def test_no_private_name_of_ray_is_used() -> None:
    found = [f"{path.relative_to(ROOT)}: {name[0]}" for path in SHIPPED for name in PRIVATE.finditer(path.read_text())]
    assert len(SHIPPED) > 50
    assert found == []
