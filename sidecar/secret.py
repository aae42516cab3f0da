"""A secret in a configuration: a value that says itself nowhere by accident."""

from __future__ import annotations

import hmac


class Secret:
    """A text that `repr`, `str` and every dump show as `***`; only `reveal` gives it.

    In a plugin's `Config` write `key: Secret`. In YAML it is `{file: PATH}` or `${NAME}`, never the text itself; `source` keeps which, so that an expanded
    configuration can name the secret without telling it: "file:/etc/key" or "${NAME}".
    """

    __slots__ = ("_text", "source")

    def __init__(self, text: str, source: str = "") -> None:
        self._text = text
        self.source = source

    def reveal(self) -> str:
        """The text. Never log it, never put it into a message."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        # Plugins compare what a client sent with a secret: the time taken must not tell how much of it was right.
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)
