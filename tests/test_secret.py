"""A secret tells itself nowhere by accident."""

from __future__ import annotations

import json

import msgspec
import pytest

from sidecar.secret import Secret


def test_secret_hides() -> None:
    """Text forms show three stars, also inside of other things; `reveal` gives the text."""
    secret = Secret("hunter2", "${PASSWORD}")
    assert secret.reveal() == "hunter2"
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"


@pytest.mark.parametrize("encode", [json.dumps, msgspec.json.encode])
def test_secret_is_not_encoded(encode: object) -> None:
    """No encoder takes it for a string."""
    with pytest.raises(TypeError):
        encode(Secret("hunter2"))  # type: ignore[operator]


def test_secrets_compare_by_text() -> None:
    """Where a secret came from does not matter, and a plain string is no secret."""
    assert Secret("a", "file:x") == Secret("a", "${Y}")
    assert hash(Secret("a")) == hash(Secret("a", "z"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
