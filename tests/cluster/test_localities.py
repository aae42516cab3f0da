"""How near is near."""

from __future__ import annotations

import pytest

from sidecar.cluster.localities import distance, weight_of
from sidecar.model import Locality


def place(text: str) -> Locality:
    return Locality(**dict(zip(("region", "zone", "sub_zone"), text.split("/"), strict=False)))


@pytest.mark.parametrize(
    ("own", "other", "far"),
    [
        ("eu/a/1", "eu/a/1", 0), ("eu/a/1", "eu/a/2", 1), ("eu/a/1", "eu/b/1", 2), ("eu/a/1", "us/a/1", 3), ("eu/a", "eu/a/7", 0), ("eu/a", "eu/b/7", 1),
        ("eu/a", "eu", 1), ("eu", "us", 1), ("", "eu/a", 0), ("eu//1", "eu/a/1", 2),
    ],
)  # fmt: skip
def test_distance(own: str, other: str, far: int) -> None:
    """Parts that we do not know of ourselves do not count; the widest difference decides."""
    assert distance(place(own), place(other)) == far


def test_nowhere_is_far_away() -> None:
    """An endpoint of which nobody says where it is."""
    assert distance(place("eu/a"), None) == 2


def test_weights() -> None:
    """The narrowest one that is written, else 1."""
    weights = {"eu": 5, "eu/a": 7, "us/b/3": 0}
    assert [weight_of(place(text), weights) for text in ("eu/a/1", "eu/b", "us/b/3", "us/b", "")] == [7, 5, 0, 1, 1]
