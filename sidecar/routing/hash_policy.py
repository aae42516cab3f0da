"""Hash policies: which part of a request says where it belongs. Asked only by balancers that hash."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

from sidecar.headers import Field, field
from sidecar.message import RequestHead
from sidecar.model import HashPolicy

# (head, peer's address, a new value for a cookie) -> (key or None, Set-Cookie or None)
KeyOf = Callable[[RequestHead, str, Callable[[], bytes]], tuple[int | None, Field | None]]
Part = Callable[[RequestHead, str, Callable[[], bytes]], tuple[bytes | None, Field | None]]


def compile_hash_policies(policies: tuple[HashPolicy, ...]) -> KeyOf | None:
    """One function for all of them; None when there are none. Parts that a request does not have are passed over; the others together make the key. A
    `terminal` policy that found something ends the search.
    """
    if not policies:
        return None
    parts = [(_part(policy), policy.terminal) for policy in policies]

    def key_of(head: RequestHead, peer: str, new_value: Callable[[], bytes]) -> tuple[int | None, Field | None]:
        found: list[bytes] = []
        set_cookie = None
        for part, terminal in parts:
            value, cookie = part(head, peer, new_value)
            if value is not None:
                found.append(value)
                set_cookie = cookie or set_cookie
                if terminal:
                    break
        if not found:
            return None, None
        # Lengths keep ("ab", "c") and ("a", "bc") apart.
        text = b"".join(b"%d:%b" % (len(value), value) for value in found)
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big"), set_cookie

    return key_of


def _part(policy: HashPolicy) -> Part:
    if policy.header is not None:
        return _header(policy.header.lower().encode())
    if policy.cookie is not None:
        return _cookie(policy)
    if policy.query is not None:
        return _query(policy.query.encode())
    return lambda head, peer, new_value: (peer.encode(), None)


def _header(name: bytes) -> Part:
    def header(head: RequestHead, peer: str, new_value: object) -> tuple[bytes | None, None]:
        if name == b"host":
            return head.authority or None, None
        values = head.headers.get_all(name)
        return (b",".join(values) if values else None), None

    return header


def _query(name: bytes) -> Part:
    def query(head: RequestHead, peer: str, new_value: object) -> tuple[bytes | None, None]:
        for pair in head.path.partition(b"?")[2].split(b"&"):
            key, equals, value = pair.partition(b"=")
            if key == name and equals:
                return value, None
        return None, None

    return query


def _cookie(policy: HashPolicy) -> Part:
    name = (policy.cookie or "").encode()
    ttl = policy.cookie_ttl
    attributes = b"" if not ttl else b"; Max-Age=%d" % ttl
    if policy.cookie_path:
        attributes += b"; Path=" + policy.cookie_path.encode()
    attributes += b"; HttpOnly"

    def cookie(head: RequestHead, peer: str, new_value: Callable[[], bytes]) -> tuple[bytes | None, Field | None]:
        for line in head.headers.get_all(b"cookie"):
            for pair in line.split(b";"):
                key, _, value = pair.strip().partition(b"=")
                if key == name:
                    return value.strip(b'"'), None
        if ttl is None:
            return None, None
        value = new_value()
        return value, field(b"Set-Cookie", name + b"=" + value + attributes)

    return cookie
