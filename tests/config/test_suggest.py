"""Did you mean ...?"""

from __future__ import annotations

import pytest

from sidecar.config.suggest import did_you_mean, listing


@pytest.mark.parametrize(
    ("word", "answer"),
    [("listner", "Did you mean 'listeners'?"), ("DrainTime", "Did you mean 'drain_time'?"), ("drain-time", "Did you mean 'drain_time'?"), ("zzz", "")],
)
def test_did_you_mean(word: str, answer: str) -> None:
    """The nearest word is named, whatever the case and the joints; nothing when none is near."""
    assert did_you_mean(word, ["listeners", "clusters", "drain_time"]) == answer


@pytest.mark.parametrize(("words", "text"), [([], "none"), (["b"], "b"), (["b", "a"], "a and b"), (["c", "a", "b", "a"], "a, b and c")])
def test_listing(words: list[str], text: str) -> None:
    """Words end a sentence sorted, each once."""
    assert listing(words) == text
