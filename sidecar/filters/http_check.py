"""Health check `http`: ask for a path, look at the status and, where configured, into the body (Envoy: HttpHealthCheck)."""

from __future__ import annotations

from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.codec.h1.grammar import is_authority
from sidecar.headers import Headers
from sidecar.interfaces import IHealthCheck
from sidecar.model import Size
from sidecar.verdicts import DEGRADED, Degraded, Unwell

# What of a body is read to find `receive` in it; health pages are short.
BODY_BYTES = 64 * 1024
USER_AGENT = b"sidecar-health-check"
# An application that can do less than usual says so with this field of its answer, whatever its value (Envoy: degraded endpoints).
DEGRADED_FIELD = b"x-envoy-degraded"


@implementer(IHealthCheck)
class HTTPCheck:
    """See the module."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`path`: with query. `host`: the Host or :authority sent (unset: the endpoint's hostname, else the cluster's name). `expected_statuses`: numbers
        or ranges
        ("200-299", both included) that mean well; `retriable_statuses`: those that count towards the threshold, while any other takes the endpoint out at
        once. `receive`: text that must stand in
        the body. `body_bytes`: a longer body is a failure."""

        path: str = "/"
        host: str | None = None
        method: str = "GET"
        headers: dict[str, str] = {}
        expected_statuses: tuple[int | str, ...] = (200,)
        retriable_statuses: tuple[int | str, ...] = ()
        receive: str = ""
        body_bytes: Size = BODY_BYTES

        def __post_init__(self) -> None:
            """Raises `ValueError` for what cannot be sent or never be answered, so that `sidecar check` finds it."""
            if not self.path.startswith("/") or not self.path.isascii() or any(letter <= " " or letter == "\x7f" for letter in self.path):
                raise ValueError(f"expected a path that begins with '/', without spaces, got {self.path!r}")
            if not self.method.isalpha() or not self.method.isascii() or self.method == "CONNECT":
                raise ValueError(f"expected a method such as GET or HEAD, got {self.method!r}")
            if self.method == "HEAD" and self.receive:
                raise ValueError("an answer to HEAD has no body in which `receive` could stand")
            if self.host is not None and not is_authority(self.host.encode()):
                raise ValueError(f"expected a host name with or without a port, got {self.host!r}")
            _fields(self)
            expected, retriable = statuses(self.expected_statuses), statuses(self.retriable_statuses)
            if not expected:
                raise ValueError("with no `expected_statuses` no endpoint would ever be well")
            if expected & retriable:
                raise ValueError(f"the status {min(expected & retriable)} is expected and retriable")

    def __init__(self, config: Config, context: Any) -> None:
        self._config = config
        self._method = config.method.encode()
        self._path = config.path.encode()
        self._headers = _fields(config)
        self._expected = statuses(config.expected_statuses)
        self._retriable = statuses(config.retriable_statuses)
        self._receive = config.receive.encode()

    async def check(self, probe: Any) -> Unwell | Degraded | None:
        """See `IHealthCheck`."""
        answer = await probe.request(self._method, self._path, self._headers, limit_bytes=self._config.body_bytes)
        if answer.status not in self._expected:
            return Unwell(f"answered {answer.status}", at_once=answer.status not in self._retriable)
        if self._receive and self._receive not in answer.body:
            return Unwell(f"answered {answer.status} without {self._config.receive!r} in its body", at_once=True)
        return DEGRADED if DEGRADED_FIELD in answer.headers else None


def _fields(config: HTTPCheck.Config) -> Headers:
    """The request's fields. Raises `ValueError`."""
    fields = Headers.of([(b"User-Agent", USER_AGENT)])
    if config.host is not None:
        fields.set(b"Host", config.host.encode())
    for name, value in config.headers.items():
        fields.set(name.encode(), value.encode())
    return fields


def statuses(ranges: tuple[int | str, ...]) -> frozenset[int]:
    """The statuses that numbers and ranges ("200-299") name. Raises `ValueError` for what is neither."""
    found: set[int] = set()
    for each in ranges:
        first, _, last = str(each).partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal() and 200 <= int(first) <= int(last) <= 599):
            raise ValueError(f"expected a status from 200 to 599, or a range such as 200-299, got {each!r}")
        found.update(range(int(first), int(last) + 1))
    return frozenset(found)
