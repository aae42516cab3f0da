"""Did you mean ...?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# difflib's ratio above which a word is taken for a misspelling of another: 0.6 is difflib's own default and still matches "listner" with "listeners".
LIKENESS = 0.6


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names the known word nearest to `word`, or "" when none is near."""
    folded: dict[str, str] = {}
    for each in known:
        folded.setdefault(each.lower().replace("_", "-"), each)
    near = difflib.get_close_matches(word.lower().replace("_", "-"), folded, n=1, cutoff=LIKENESS)
    return f"Did you mean {folded[near[0]]!r}?" if near else ""


def listing(known: Iterable[str]) -> str:
    """The known words, sorted, for the end of a sentence: "a, b and c"; "none" when there are none."""
    words = sorted(set(known))
    if not words:
        return "none"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
