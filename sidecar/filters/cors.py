"""Pages of other origins may call, or may not (the CORS protocol of the Fetch standard)."""

from __future__ import annotations

from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.headers import Headers
from sidecar.interfaces import IRequestHeadHook, IResponseHeadHook
from sidecar.matching import compile_value_match
from sidecar.model import Duration, ValueMatch
from sidecar.verdicts import Reply

ORIGIN = b"origin"
ALLOW_ORIGIN = b"access-control-allow-origin"
ALLOW_CREDENTIALS = b"access-control-allow-credentials"
REQUEST_METHOD = b"access-control-request-method"
REQUEST_PRIVATE_NETWORK = b"access-control-request-private-network"
ALLOW_PRIVATE_NETWORK = b"access-control-allow-private-network"
# What a field's value may be made of here: names of methods and fields.
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class OriginMatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One test on an origin such as `https://shop.example`; `exact: "*"` is any."""

    exact: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    contains: str | None = None
    regex: str | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` when there is not exactly one test, or for a broken pattern."""
        tests = {name: value for name in ("exact", "prefix", "suffix", "contains", "regex") if (value := getattr(self, name)) is not None}
        if len(tests) != 1:
            raise ValueError("an origin has one test: exact, prefix, suffix, contains or regex")
        compile_value_match(ValueMatch(name="origin", **tests))


@implementer(IRequestHeadHook, IResponseHeadHook)
class Cors:
    """Filter `cors`: answers preflight requests of allowed origins and tells browsers in answers that the page may read them."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """As Envoy's CorsPolicy. `max_age`: seconds for which a browser may remember a preflight's answer. `forward_not_matching_preflights`: preflights of
        other origins go to the application; otherwise they are answered here, without a permission."""

        allow_origin_string_match: tuple[OriginMatch, ...]
        allow_methods: tuple[str, ...] = ()
        allow_headers: tuple[str, ...] = ()
        expose_headers: tuple[str, ...] = ()
        max_age: Duration | None = None
        allow_credentials: bool = False
        allow_private_network_access: bool = False
        forward_not_matching_preflights: bool = True

        def __post_init__(self) -> None:
            """Raises `ValueError` for what no browser can read, and for any origin together with credentials."""
            for name in (*self.allow_methods, *self.allow_headers, *self.expose_headers):
                if not name or not _TOKEN.issuperset(name):
                    raise ValueError(f"{name!r} is no name of a method or field")
            if self.allow_credentials and any(each.exact == "*" for each in self.allow_origin_string_match):
                raise ValueError("allow_credentials with any origin would let every page act as whoever is logged in; name the origins")

    def __init__(self, config: Config, context: Any) -> None:
        self._config = config
        self._any = any(each.exact == "*" for each in config.allow_origin_string_match)
        self._tests = tuple(
            compile_value_match(ValueMatch(name="origin", **{name: value for name, value in msgspec.structs.asdict(each).items() if value is not None}))
            for each in config.allow_origin_string_match
        )
        listed = {b"access-control-allow-methods": config.allow_methods, b"access-control-allow-headers": config.allow_headers}
        self._preflight = [(name, ", ".join(values).encode()) for name, values in listed.items() if values]
        if config.max_age is not None:
            self._preflight.append((b"access-control-max-age", b"%d" % config.max_age))
        self._expose = ", ".join(config.expose_headers).encode()
        self._origins = context.counter("cors_origins", "Requests with an origin.", ("verdict",))

    def request_head(self, exchange: Any) -> Reply | None:
        """See `IRequestHeadHook`."""
        request = exchange.request
        origin = request.headers.get(ORIGIN)
        if not origin:
            return None
        allowed = self._any or any(test(origin) for test in self._tests)
        self._origins.inc("allowed" if allowed else "refused")
        if request.method == b"OPTIONS" and request.headers.get(REQUEST_METHOD):
            if allowed:
                return self._permit(origin, request.headers.get(REQUEST_PRIVATE_NETWORK) == b"true")
            if not self._config.forward_not_matching_preflights:
                return Reply(200, Headers.of([(b"vary", b"Origin")]), reason="preflight of an origin that is not allowed")
        if allowed:
            exchange.state[self] = origin
        return None

    def _permit(self, origin: bytes, private_network: bool) -> Reply:
        fields = [(ALLOW_ORIGIN, origin), *self._preflight, (b"vary", b"Origin")]
        if self._config.allow_credentials:
            fields.append((ALLOW_CREDENTIALS, b"true"))
        if private_network and self._config.allow_private_network_access:
            fields.append((ALLOW_PRIVATE_NETWORK, b"true"))
        return Reply(200, Headers.of(fields), reason="preflight")

    def response_head(self, exchange: Any) -> None:
        """See `IResponseHeadHook`. Also of local replies, so that a page can read why it was refused."""
        headers = exchange.response.headers
        # Also without an origin: a cache may not give that answer to a page which has one.
        if not any(b"origin" in value.lower() or value == b"*" for value in headers.get_all(b"vary")):
            headers.add(b"vary", b"Origin")
        origin = exchange.state.get(self)
        if origin is None:
            return
        headers.set(ALLOW_ORIGIN, origin)
        if self._config.allow_credentials:
            headers.set(ALLOW_CREDENTIALS, b"true")
        if self._expose:
            headers.set(b"access-control-expose-headers", self._expose)
