"""What must hold within one struct of the model beyond its types. Each check is asked as soon as its struct is walked, also when other parts
of the file are wrong.

The tables are shared with the JSON Schema; the functions hold what a schema cannot say.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sidecar.config.cluster_checks import CLUSTER_CHECKS, http2_codec, http_limits
from sidecar.config.convert import Check, Record
from sidecar.config.problems import SPIFFE_SEGMENT, TRUST_DOMAIN, each, host_problem, pattern_problem, prefix_problem, spiffe_problem
from sidecar.config.retry_checks import RETRY_CHECKS, route_retry
from sidecar.config.suggest import did_you_mean, listing
from sidecar.extension import KINDS
from sidecar.headers import field
from sidecar.model import (
    ChainMatch,
    Cluster,
    DirectResponse,
    DownstreamTLS,
    FilterChain,
    FilterOverride,
    HashPolicy,
    HeaderOps,
    HTTPLimits,
    HTTPManager,
    Listener,
    Mirror,
    Node,
    PluginRef,
    Redirect,
    Rewrite,
    Route,
    RouteMatch,
    TCPProxy,
    UpstreamTLS,
    ValueMatch,
    VirtualHost,
)
from sidecar.routing.normalize import wire_form, wire_prefix

EXACTLY_ONE: dict[type, tuple[str, ...]] = {
    Route: ("cluster", "weighted_clusters", "redirect", "direct_response"),
    FilterChain: ("http", "tcp"),
    TCPProxy: ("cluster", "weighted_clusters"),
    HashPolicy: ("header", "cookie", "source_address", "query"),
}
AT_MOST_ONE: dict[type, tuple[str, ...]] = {
    RouteMatch: ("path", "prefix", "segment_prefix", "regex"),
    ValueMatch: ("exact", "prefix", "suffix", "contains", "regex", "present"),
    Redirect: ("path", "prefix"),
    Rewrite: ("prefix", "regex"),
    UpstreamTLS: ("hostname", "identities", "trust_domains"),
    Cluster: ("endpoints", "discovery"),
}
# (struct, field) -> the kinds of plugins that may stand there.
PLACES: dict[tuple[str, str], tuple[str, ...]] = {
    ("Listener", "connection_filters"): ("connection-filter",),
    ("HTTPManager", "http_filters"): ("authenticator", "authorizer", "rate-limiter", "filter"),
    ("HTTPManager", "access_logs"): ("access-log",),
    ("Tracing", "tracer"): ("tracer",),
    ("Tracing", "exporters"): ("span-exporter",),
    ("Cluster", "balancer"): ("balancer",),
    ("Cluster", "discovery"): ("discovery",),
    ("Retry", "policy"): ("retry-policy",),
    ("HealthCheck", "check"): ("health-check",),
    ("Certificate", "source"): ("certificate-source",),
    ("Route", "filters"): ("authenticator", "authorizer", "rate-limiter", "filter"),
}
# Fields that say where a message ends or belong to one connection: the codec writes them, and an edit would let two readers see two messages.
FRAMING_FIELDS = {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
HTTP_ALPN = ("h2", "http/1.1", "http/1.0")  # what the HTTP codec speaks; to offer more would let a client choose what cannot be served

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

Report = Callable[[str], None]


def _regex(record: Record, key: str) -> re.Pattern[str] | None:
    text = record.get(key)
    if text is None:
        return None
    try:
        re.compile(text.encode())  # requests are octets, for which some patterns for text are none
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        record.problem(f"the regular expression {text!r} does not compile: {error}", key)
        return None


def _domain(text: str) -> str:
    return "" if TRUST_DOMAIN.fullmatch(text) else f"a trust domain holds lower-case letters, digits, '.', '-' and '_' only, got {text!r}"


def _alpn(text: str) -> str:
    return "" if text in HTTP_ALPN else f"only {listing(HTTP_ALPN)} can be spoken here, got {text!r}"


# -- one function for each struct ------------------------------------------------------------------------------------------------------------


def plugin_ref(record: Record) -> None:
    """The kind exists and may stand in this place."""
    kind = record.get("kind")
    if kind is None:
        return
    if kind not in KINDS:
        record.problem(f"there is no kind {kind!r}; the kinds are {listing(KINDS)}", "kind", did_you_mean(kind, KINDS))
        return
    places = PLACES.get((record.parent.cls.__name__, record.field)) if record.parent is not None else None
    if places is not None and kind not in places:
        expected = " or ".join(filter(None, (", ".join(places[:-1]), places[-1])))
        record.problem(
            f"a plugin of the kind {kind!r} cannot stand in `{record.field}`; expected {expected}",
            "kind",
        )
    if record.cls is FilterOverride and not record.has("config") and record.get("disabled") is not True and not ({"config", "disabled"} & set(record.keys)):
        record.problem("expected `disabled: true` or another `config`")


def value_match(record: Record) -> None:
    """A regular expression compiles."""
    _regex(record, "regex")


def route_match(record: Record) -> None:
    """Paths start with "/" and hold no query; methods are tokens in their own case; header names are names."""
    for key in ("path", "prefix", "segment_prefix"):
        text = record.get(key)
        if text is None:
            continue
        if not text.startswith("/") and not (key == "path" and text == "*"):
            record.problem(f"expected a path that starts with '/', got {text!r}", key)
        if "?" in text or "#" in text:
            record.problem("the query is not part of the path; test it under `query`", key)
        elif key == "segment_prefix" and len(text) > 1 and text.endswith("/"):
            record.problem(f"write it without the '/' at its end: {text.rstrip('/')!r}", key)
        elif text.startswith("/"):
            _wire(record, key, wire_prefix if key == "prefix" else wire_form)
    _regex(record, "regex")
    each(record, "methods", _method)
    header_names(record)


def header_names(record: Record) -> None:
    """What `headers` look at are names of fields. Also of a mirror."""
    for index, header in enumerate(record.get("headers", ())):
        if _TOKEN.fullmatch(header.name) is None:
            record.problem(f"not a field name: {header.name!r} (item {index})", "headers")


def _wire(record: Record, key: str, spelled: Callable[[str], bytes]) -> None:
    """A request can have this path: one that none has is a route that takes nothing."""
    try:
        spelled(record.get(key))
    except ValueError as error:
        record.problem(str(error), key)


def _method(text: str) -> str:
    if _TOKEN.fullmatch(text) is None:
        return f"not a method: {text!r}"
    return f"methods are compared in their own case; write {text.upper()!r}" if text.upper() in METHODS and text not in METHODS else ""


def header_ops(record: Record) -> None:
    """Names and values are what HTTP allows, and none of them frames the message."""
    for text, report in record.texts("remove"):
        _field(text, "", report)
    for key in ("set", "add"):
        for name, value, report in record.pairs(key):
            _field(name, value, report)


def _field(name: str, value: str, report: Report) -> None:
    try:
        field(name.encode("latin-1"), value.encode("utf-8"))
    except (ValueError, UnicodeEncodeError):
        report(f"not a field name: {name!r}" if _TOKEN.fullmatch(name) is None else f"not a value for the field {name}: {value!r}")
        return
    if name.lower() in FRAMING_FIELDS:
        report(f"the field {name!r} belongs to the connection and cannot be edited")
    elif name.lower() == "host":
        report("the authority is changed with `rewrite: {host: ...}`")


def rewrite(record: Record) -> None:
    """`regex` and `substitution` come together and fit each other; paths start with "/"; hosts are hosts; something is rewritten."""
    pattern = _regex(record, "regex")
    if record.has("regex") != record.has("substitution"):
        record.problem("`regex` and `substitution` belong together")
    elif pattern is not None and isinstance(record.get("substitution"), str):
        try:
            pattern.sub(record.get("substitution"), "")
            record.get("substitution").encode("ascii")
        except (re.error, IndexError) as error:
            record.problem(f"the substitution does not fit the regular expression: {error}", "substitution")
        except UnicodeEncodeError:
            record.problem(f"expected ASCII, in which a path stands percent-encoded, got {record.get('substitution')!r}", "substitution")
    if _absolute(record, "prefix"):
        _wire(record, "prefix", wire_prefix)
    _authority(record, "host")
    if not record.keys:
        record.problem("nothing is rewritten; expected prefix, regex with substitution, or host")


def _absolute(record: Record, key: str) -> bool:
    """Is there a path under `key`, and does it start as one?"""
    text = record.get(key)
    if text is not None and not text.startswith("/"):
        record.problem(f"expected a path that starts with '/', got {text!r}", key)
    return text is not None and text.startswith("/")


def _authority(record: Record, key: str) -> None:
    text = record.get(key)
    if text is not None and (sentence := host_problem(text, port=True)):
        record.problem(sentence, key)


def redirect(record: Record) -> None:
    """Something differs from the request, or the client would come back for ever."""
    if _absolute(record, "path"):
        _field("location", record.get("path"), lambda message: record.problem(message, "path"))
    if _absolute(record, "prefix"):
        _wire(record, "prefix", wire_prefix)
    if record.get("host") is not None and (sentence := host_problem(record.get("host"))):
        record.problem(sentence, "host")
    if not any(record.has(key) for key in ("scheme", "host", "port", "path", "prefix")) and not record.get("strip_query"):
        record.problem("the redirect changes nothing, so the client would come back for ever")


def direct_response(record: Record) -> None:
    """204 and 304 have no body (RFC 9110, sections 15.3.5 and 15.4.5)."""
    if record.get("status") in (204, 205, 304) and record.get("body"):
        record.problem(f"a response with status {record.get('status')} has no body", "body")
    content_type = record.get("content_type")
    if content_type is not None:
        _field("content-type", content_type, lambda message: record.problem(message, "content_type"))


def hash_policy(record: Record) -> None:
    """Names are names, what belongs to a cookie stands beside one, and the switch is on."""
    for key in ("header", "cookie"):
        text = record.get(key)
        if text is not None and _TOKEN.fullmatch(text) is None:
            record.problem(f"not a name of a {key}: {text!r}", key)
    for key in ("cookie_ttl", "cookie_path"):
        if record.has(key) and not record.has("cookie"):
            record.problem(f"`{key}` belongs to a `cookie`", key)
    path = record.get("cookie_path")
    if path is not None and re.fullmatch(r"/[!-:<-~]*", path) is None:
        record.problem(f"expected a path that starts with '/' and holds no ';' or space, got {path!r}", "cookie_path")
    if record.has("cookie_path") and not record.has("cookie_ttl"):
        record.problem("no cookie is made without `cookie_ttl`, so the path has no use", "cookie_path")
    if record.get("source_address") is False:
        record.problem("expected true, or another part of the request", "source_address")


def shares_of(record: Record) -> None:
    """Shares sum to more than zero."""
    shares = record.get("weighted_clusters", ())
    if shares and not sum(share.weight for share in shares):
        record.problem("the weights sum to zero, so no cluster would be taken", "weighted_clusters")


def route(record: Record) -> None:
    """Shares; what works on the matched prefix has one; edits of the request go with an action that sends it on."""
    shares_of(record)
    match, change, away = record.get("match"), record.get("rewrite"), record.get("redirect")
    if match is not None and match.regex is not None:
        for key, value in (("rewrite", change), ("redirect", away)):
            if value is not None and value.prefix is not None:
                record.problem("`prefix` replaces what the route's path or prefix matched, but this route matches by `regex`; rewrite by regex", key)
    if match is not None and match.path == "*" and any(value is not None and value.prefix is not None for value in (change, away)):
        record.problem("'*' is no path, so a `prefix` has nothing to replace in it", "match")
    if record.has("redirect") or record.has("direct_response"):
        for key in ("rewrite", "request_headers", "retry", "hedge", "hash_policy", "mirrors"):
            if record.has(key):
                record.problem(f"`{key}` works on a request that is sent on; this route answers by itself", key)
    route_retry(record)


def virtual_host(record: Record) -> None:
    """Domains are patterns."""
    each(record, "domains", pattern_problem)
    if "domains" in record.keys and record.get("domains") == ():
        record.problem("expected at least one domain", "domains")


def downstream_tls(record: Record) -> None:
    """Trust domains are names; whose clients are not asked for certificates verifies none; only spoken protocols are offered."""
    each(record, "trust_domains", _domain)
    if record.get("client_certificate") == "none":
        for key in ("trust", "trust_domains"):
            if record.has(key):
                record.problem(f"no client is asked for a certificate (client_certificate: none), so `{key}` has no use", key)
    if record.parent is not None and record.parent.has("http"):
        each(record, "alpn", _alpn)


def upstream_tls(record: Record) -> None:
    """Identities are SPIFFE IDs; names are host names; only spoken protocols are offered."""
    each(record, "identities", spiffe_problem)
    each(record, "trust_domains", _domain)
    each(record, "hostname", host_problem)
    each(record, "server_name", host_problem)
    each(record, "alpn", _alpn)


def chain_match(record: Record) -> None:
    """Ports, prefixes and names can be met by a connection."""
    port = record.get("destination_port")
    if port is not None and not 1 <= port <= 65535:
        record.problem(f"expected a port from 1 to 65535, got {port}", "destination_port")
    each(record, "destination_prefixes", prefix_problem)
    each(record, "source_prefixes", prefix_problem)
    each(record, "server_names", _server_name)


def _server_name(text: str) -> str:
    if text == "*" or text.endswith(".*"):
        return f"expected a host name or '*.suffix', got {text!r}; a chain without `server_names` takes every name"
    return pattern_problem(text)


def filter_chain(record: Record) -> None:
    """What is matched and what is spoken do not contradict each other."""
    match = record.get("match")
    if match is None:
        return
    if record.has("tls") and match.transport_protocol == "raw":
        record.problem("this chain takes connections without TLS, so its `tls` would never be used", "tls")
    if not record.has("tls") and record.has("http") and match.transport_protocol == "tls":
        record.problem("this chain takes TLS connections, and HTTP cannot be read from them without `tls`", "http")


def http_manager(record: Record) -> None:
    """Upgrades are protocol names; HTTP/2 is spoken where it has settings."""
    http2_codec(record)
    each(
        record,
        "upgrades",
        lambda text: "" if _TOKEN.fullmatch(text.replace("/", "")) and text == text.lower() else f"expected a protocol's name in lower case, got {text!r}",
    )


def listener(record: Record) -> None:
    """The address can be bound; there is a chain, and no two chains take the same."""
    address = record.get("address")
    if address is not None and not (address.is_ip or address.is_unix or address.host == "localhost"):
        record.problem(f"expected an IP address to listen on, got the name {address.host!r}", "address")
    chains = record.get("filter_chains")
    if chains is None:
        return
    if not chains:
        record.problem("expected at least one filter chain", "filter_chains")
    matches = [chain.match for chain in chains]
    for index, match in enumerate(matches):
        if match in matches[:index]:
            record.problem(f"chain {index} matches the same as chain {matches.index(match)}, so it would never be taken", "filter_chains")


def node(record: Record) -> None:
    """The names can stand in a SPIFFE ID."""
    for key in ("service", "namespace"):
        each(
            record,
            key,
            lambda text: (
                "" if SPIFFE_SEGMENT.fullmatch(text) else f"expected letters, digits, '.', '-' and '_' only (it becomes part of a SPIFFE ID), got {text!r}"
            ),
        )
    each(record, "trust_domain", _domain)


def _alternatives(record: Record) -> None:
    """The two tables above."""
    keys = EXACTLY_ONE.get(record.cls, ())
    written = [key for key in keys if record.has(key)]
    if keys and len(written) != 1:
        record.problem(f"expected exactly one of {listing(keys)}, got {listing(written)}")
    written = [key for key in AT_MOST_ONE.get(record.cls, ()) if record.has(key)]
    if len(written) > 1:
        record.problem(f"expected only one of {listing(written)}")


_OWN: dict[type, Check] = {
    PluginRef: plugin_ref,
    FilterOverride: plugin_ref,
    ValueMatch: value_match,
    RouteMatch: route_match,
    HeaderOps: header_ops,
    Rewrite: rewrite,
    Redirect: redirect,
    DirectResponse: direct_response,
    HashPolicy: hash_policy,
    Mirror: header_names,
    **RETRY_CHECKS,
    Route: route,
    TCPProxy: shares_of,
    VirtualHost: virtual_host,
    DownstreamTLS: downstream_tls,
    UpstreamTLS: upstream_tls,
    ChainMatch: chain_match,
    FilterChain: filter_chain,
    HTTPLimits: http_limits,
    HTTPManager: http_manager,
    Listener: listener,
    Node: node,
    **CLUSTER_CHECKS,
}


def _with_alternatives(own: Check) -> Check:
    def check(record: Record) -> None:
        _alternatives(record)
        own(record)

    return check


CHECKS: dict[type, Check] = {cls: _with_alternatives(own) for cls, own in _OWN.items()}
