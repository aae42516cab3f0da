"""What WebSocket's two handshakes, over HTTP/1.1 (RFC 6455) and over HTTP/2 (RFC 8441), do not have in common.

HTTP/1.1 proves with a key and its digest that the other side knows WebSocket; HTTP/2 has `:protocol` for it and forbids neither, but uses neither.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1

from sidecar.headers import Field, field

NAME = b"websocket"
KEY = b"sec-websocket-key"
ACCEPT = b"sec-websocket-accept"
KEY_OCTETS = 16  # RFC 6455, section 4.1, before base64
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def key_field(nonce: bytes) -> Field:
    """The field of a request. `nonce`: 16 random octets."""
    return field(b"Sec-WebSocket-Key", b64encode(nonce))


def accept_of(key: bytes) -> bytes:
    """What a server that takes `key` answers (RFC 6455, section 4.2.2)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def accept_field(key: bytes) -> Field:
    """The field of a response."""
    return field(b"Sec-WebSocket-Accept", accept_of(key))
