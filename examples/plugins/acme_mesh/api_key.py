"""Who is calling, by API key.

The keys stand in a file, a line for each: the owner's name, white space, the key. Empty lines and lines that begin with "#" do not count.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.errors import Unauthenticated
from sidecar.facts import Principal
from sidecar.interfaces import IAuthenticator
from sidecar.secret import Secret
from sidecar.verdicts import Refuse


@implementer(IAuthenticator)
class ApiKey:
    """Authenticator `acme.api-key`: the owner of the key that the caller shows is the principal. The key itself does not travel on to the application."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`keys`: the file of owners and keys, `{file: PATH}`. `header`: the field that carries the key. `required`: refuse a caller without a key with 401,
        instead of leaving it to the next authenticator."""

        keys: Secret
        header: str = "x-api-key"
        required: bool = True

    def __init__(self, config: Config, context: Any) -> None:
        self._header = config.header.lower().encode()
        self._owners = [(digest, Principal(owner, context.name)) for owner, digest in read_keys(config.keys.reveal())]
        self._missing = Refuse(Unauthenticated(f"an API key is needed in the field {config.header}")) if config.required else None
        self._unknown = Refuse(Unauthenticated(f"the API key in the field {config.header} is not known"))
        self._refused = context.counter("refused_keys", "API keys that nobody owns")

    def authenticate(self, exchange: Any) -> Principal | Refuse | None:
        """See `IAuthenticator`."""
        headers = exchange.request.headers
        shown = headers.get_all(self._header)
        if not shown:
            return self._missing
        headers.remove(self._header)
        principal = self._owner(shown[0]) if len(shown) == 1 else None
        if principal is None:
            self._refused.inc()
            return self._unknown
        return principal

    def _owner(self, key: bytes) -> Principal | None:
        # Every key is compared, each in constant time, and digests instead of keys: how long this takes tells nothing of how near a guess came.
        digest = sha256(key).digest()
        found = None
        for known, principal in self._owners:
            if hmac.compare_digest(known, digest):
                found = principal
        return found


def read_keys(text: str) -> list[tuple[str, bytes]]:
    """(owner, SHA-256 of the key) for each line. Raises `ValueError`, which names the line and never the key, when there is anything else or nothing at all."""
    owners = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise ValueError(f"line {number} of the keys: expected an owner and a key, got {len(words)} words")
        owners.append((words[0], sha256(words[1].encode()).digest()))
    if not owners:
        raise ValueError("there is not one key: nobody could call")
    return owners
