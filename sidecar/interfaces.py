"""Every promise between the parts of the sidecar, and to the authors of plugins, in the order in which a request meets them.

First what plugin authors provide and are given, then what the layers of the data path promise each other. Plugin classes are made with `(config, context)`: `config` an instance of the
class's nested `Config` (a `msgspec.Struct` with `forbid_unknown_fields=True`), `context` an `IPluginContext`. A class provides the interfaces of its kind and any subset of the hooks.

Unless said otherwise: hooks run in the reactor thread and must not block; they may be called from within `dataReceived`; they return their answer, or a Deferred or coroutine of it;
what they raise is counted, logged, and answered with 500 (or passed over when the entry says `fail_open: true`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zope.interface import Attribute, Interface

# mypy's zope plugin reads methods without self.
# ruff: noqa: N805


class IPluginContext(Interface):
    """What a plugin is given besides its configuration. Valid from `__init__` until `stop` returned."""

    name = Attribute("str: the plugin's name as configured, used in logs and metrics")
    entry = Attribute("str: where the plugin is used: a filter chain's name, with the route's where a route has its own; '' in tests")
    clock = Attribute("IReactorTime: the only clock a plugin may use, so that tests can drive it")
    reactor = Attribute("the reactor, for plugins that open sockets of their own (a discovery, an exporter); everything else asks `clock`")
    log = Attribute("twisted.logger.Logger with the plugin's name as namespace")
    node = Attribute("sidecar.model.Node: who this sidecar is")

    def counter(name: str, help: str, labels: tuple[str, ...] = ()) -> object:
        """A counter `sidecar_plugin_<name>_total` in this plugin's scope: an object with `inc(*label_values, by=1)`. Call it once, when the plugin is made."""

    def gauge(name: str, help: str, read: Any) -> None:
        """A gauge `sidecar_plugin_<name>` with the labels `plugin` and `entry`: `read()` gives its number whenever it is asked for. Call it when the plugin is made."""

    def http_client(cluster: str) -> object:
        """An HTTP client bound to a cluster of the configuration: an object with `request(method, path, headers=Headers(), body=b"", timeout_seconds=5.0)` that returns a Deferred of an object
        with `status`, `headers` and `body` (at most 1 MiB), failing with an `UpstreamError`. Raises `ValueError` when there is no such cluster."""


class IPluginLifecycle(Interface):
    """Optional: a plugin that holds something open."""

    def start() -> object:
        """Called once before listeners open. May return a Deferred; the start waits for it, and fails with it."""

    def stop() -> object:
        """Called once after the last exchange ended, also when `start` failed. May return a Deferred."""


# -- a connection comes in -------------------------------------------------------------------------------------------------------------------


class IConnectionFilter(Interface):
    """Kind `connection-filter`: may this connection come in?"""

    def connection_accepted(connection: Any) -> object:
        """Called once for each connection, before TLS. `connection`: `ConnectionFacts` with `tls` None. Returns None or `Allow` to go on, `Deny` to close it at once."""


class IHandshakeFilter(Interface):
    """Kind `connection-filter`, second chance: the same question when TLS facts are known."""

    def handshake_done(connection: Any) -> object:
        """Called once after each successful handshake (never on cleartext), before a byte of the application protocol is read. Answers as `connection_accepted`."""


# -- an exchange, as hooks see it ------------------------------------------------------------------------------------------------------------


class IExchange(Interface):
    """One request and its response: what every hook is handed. Attributes marked (rw) may be assigned."""

    number = Attribute("int: counts from 1 in this process")
    connection = Attribute("ConnectionFacts of the downstream connection")
    request = Attribute("RequestHead; its headers may be edited in `request_head`")
    response = Attribute("ResponseHead or None before there is one; its headers may be edited in `response_head`")
    response_trailers = Attribute("Headers behind the response's body, or None: known when `response_body` is called with `end`, which may edit them")
    principal = Attribute("Principal or None (rw): set by authenticators")
    route_name = Attribute("str: the route in use, '' before routing or when there is none")
    cluster_name = Attribute("str: the cluster in use, '' before routing or for replies of our own")
    endpoint = Attribute("Address of the endpoint in use, or None")
    started = Attribute("float: POSIX seconds at the first byte of the head")
    request_id = Attribute("bytes: x-request-id as forwarded, b'' when switched off")
    trace = Attribute("the tracer's own object for this exchange, or None (rw by the tracer)")
    state = Attribute("dict[object, Any]: a plugin's memory for this exchange; use the plugin (self) as key")

    def note(who: str, what: str) -> None:
        """Add a line to the decision record."""

    def add_flag(flag: str) -> None:
        """Add a response flag to the record and to metrics, beside that of the error if there is one. `flag`: short, upper case, few different ones."""

    def hash_key() -> object:
        """The number (int) that the route's hash policies make of this request, for balancers; None without any."""

    metadata_match = Attribute("tuple of (name, value) pairs, sorted: the metadata that the route asks of endpoints in the cluster in use; None for none")


class ITracer(Interface):
    """Kind `tracer`: propagate trace context and make spans. Synchronous; called for every exchange when tracing is configured, `end` only when there are span exporters."""

    def begin(exchange: Any, sample: float) -> None:
        """Before any filter: read the caller's context from the request, set `exchange.trace` (with `trace_id` and `span_id`, hex `str`, for the access record). `sample`: share of new traces to sample."""

    def inject(exchange: Any) -> None:
        """Once for each attempt, when the request is about to go up: write the context into `exchange.request.headers`."""

    def end(exchange: Any, record: Any) -> list[Any]:
        """After the exchange: the finished spans (`sidecar.telemetry.trace.Span`), empty when not sampled."""


class IPropagator(Interface):
    """A tracer that has less to do where there is no span exporter."""

    def propagate(exchange: Any) -> object:
        """In the place of `ITracer.inject`: `ITracer.end` will not be called for this exchange. What it returns is not looked at."""


class ISpanExporter(Interface):
    """Kind `span-exporter`: sends spans away. Must not wait: it queues, and drops with a count when its queue is full."""

    def export(spans: list[Any]) -> None:
        """Called after each sampled exchange with its spans."""


class IAuthenticator(Interface):
    """Kind `authenticator`: who is calling?"""

    def authenticate(exchange: Any) -> object:
        """Called once for each request, in the chain's order. A `Principal`, None (no credential of my kind here: the next one may know), or `Refuse(Unauthenticated(...))` for a bad credential.
        The first principal found is kept; later authenticators are then not asked."""


class IAuthorizer(Interface):
    """Kind `authorizer`: may this principal do this?"""

    def authorize(exchange: Any) -> object:
        """Called once for each request; `exchange.principal` is set or None. Returns `Allow`, `Deny` or `Shadow`."""


class IRateLimiter(Interface):
    """Kind `rate-limiter`: how much is left for these descriptors?"""

    descriptors = Attribute(
        "tuple[str, ...]: what tells callers apart: 'principal', 'peer' (address without port), 'method', 'path', 'authority', 'route', 'cluster', 'header:<name>'; empty for one bucket for all"
    )

    def take(values: tuple[str, ...], now: float) -> object:
        """Called once for each request with the values of `descriptors` ('' where there is none) and the clock in seconds. Returns `Allow` or `Limited`."""


class IRequestHeadHook(Interface):
    """Kind `filter`: sees the request's head."""

    def request_head(exchange: Any) -> object:
        """Called once, in the chain's order, before an endpoint is chosen. Any `Verdict`."""


class IBodyInterest(Interface):
    """Kind `filter`, for one that looks at the bodies of some exchanges only."""

    def takes_part(exchange: Any) -> bool:
        """Called once, behind the head hooks of the request. False: this exchange's bodies and trailers pass as if the filter were not there, their lengths included; its other hooks are called."""


class IRequestBodyHook(Interface):
    """Kind `filter`: sees the request's body."""

    request_body_mode = Attribute("BodyMode: OBSERVE, STREAM or buffer(limit_bytes), fixed when the plugin is made")

    def request_body(exchange: Any, chunk: bytes, end: bool) -> object:
        """Called for each chunk in order; the last call has `end` true (its chunk may be empty); never after a reply. Never called for a request without body.
        observe: return None. stream, buffer: return the bytes to send instead (b"" to hold back), or None to leave the chunk. Also `Reply`, `Refuse` or `Reset`."""


class IRequestTrailersHook(Interface):
    """Kind `filter`: sees the request's trailers."""

    def request_trailers(exchange: Any, trailers: Any) -> object:
        """Called at most once, after the body, when there are trailers (`Headers`, may be edited). None, `Reply`, `Refuse` or `Reset`. Synchronous."""


class IResponseHeadHook(Interface):
    """Kind `filter`: sees the response's head, in reverse order of the chain; also that of local replies."""

    def response_head(exchange: Any) -> object:
        """Called once for the final head. None, `Reply` or `Refuse` (replaces the response), `Repick`, `Reset`."""


class IResponseBodyHook(Interface):
    """Kind `filter`: sees the response's body, in reverse order of the chain; not that of local replies."""

    response_body_mode = Attribute("BodyMode, as for requests; beyond the limit of a buffering hook the client gets 502")

    def response_body(exchange: Any, chunk: bytes, end: bool) -> object:
        """As `IRequestBodyHook.request_body`. `Reply` and `Refuse` only from a buffering hook (the head has not left then); otherwise `Reset`."""


class IResponseTrailersHook(Interface):
    """Kind `filter`: sees the response's trailers."""

    def response_trailers(exchange: Any, trailers: Any) -> object:
        """As `IRequestTrailersHook.request_trailers`; None or `Reset`."""


class IExchangeDone(Interface):
    """Any kind in the chain: the exchange is over."""

    def exchange_done(exchange: Any, record: Any) -> None:
        """Called exactly once for every exchange whose chain was entered, whatever ended it, after its last byte. `record`: `ExchangeRecord`. Nothing it returns is looked at."""


class IBalancer(Interface):
    """Kind `balancer`: which endpoint? One instance for each group of endpoints that are as good as each other: a cluster has one, and more only when it has several priorities, localities or
    subsets at a time. Synchronous."""

    def update(endpoints: list[Any]) -> None:
        """The endpoints that may be used now, whenever they or their weights change; the first time with none. Objects with `address` (Address), `weight` (int > 0), `active` (int:
        requests running) and `configured` (`sidecar.model.Endpoint`). The list may be kept. Keep what still fits."""

    def pick(exchange: Any, tried: tuple[Any, ...]) -> object:
        """One of the endpoints, not one of `tried` unless nothing else is left; None when there is none at all. `exchange` may be None (the sidecar's own requests)."""


class IGradualBalancer(Interface):
    """A balancer whose update takes long when there are thousands of endpoints."""

    def updating(endpoints: list[Any]) -> Iterator[None]:
        """In the place of `update`: an iterator that does the same in steps of about a millisecond. It is advanced once for each turn of the reactor; until it ends `pick` goes on as before.
        Only one runs at a time."""


class IOutcomeObserver(Interface):
    """A balancer that wants to know how its choices did."""

    def observed(endpoint: Any, status: int, seconds: float) -> None:
        """Called once for each attempt at `endpoint` that was answered or failed: the answer's status (of a gRPC call, the HTTP status that says the same as its own; 503 stands for a connection that failed or broke, 504 for no answer in time), and the
        seconds until its head. A good answer is told of when it is complete, because one that is cut off was none (503). Must be quick."""


class IRetryPolicy(Interface):
    """Kind `retry-policy`: is what an attempt ended with worth another one? One instance for each route that names it. Synchronous.

    It decides about that alone. Whether the request may be sent twice, how often, the budget, circuit limits, timeouts and the kept body stay with the exchange, which asks after a yes
    whether they allow it: no answer of a policy gets around them. One that raises has said no; it is counted and logged."""

    statuses = Attribute("container of int: the answers that `decide` wants to see (`range(100, 600)`: all of them); looked up for each answer, so a set or a range")

    def decide(attempt: Any) -> object:
        """Called when an attempt ended with an error, or was answered with a final head whose status is in `statuses`, and nothing of it went to the client. `attempt`: `AttemptFacts`, not to
        be kept. `TryAgain` (perhaps with seconds to wait), `GiveUp` (with the reason, for the record), or None: it is not worth it."""


class IHealthCheck(Interface):
    """Kind `health-check`: is this endpoint well? One instance for each check of each cluster."""

    def check(probe: Any) -> object:
        """Called again and again for each endpoint of the cluster, for several endpoints at a time, never twice at once for the same one. `probe`: `IProbe`, valid until the answer. Returns None when
        the endpoint is well, `DEGRADED` when it is and can do less than others, and `Unwell(reason)` when it is not, or a Deferred or coroutine of that, which is cancelled when the check's timeout is over. To raise an `UpstreamError`, as the probe's
        methods do, is a failure for that reason; to raise anything else is a failure that names the plugin (with `fail_open: true` it says nothing against the endpoint)."""


class IProbe(Interface):
    """One look at one endpoint: the means that a health check is handed."""

    cluster = Attribute("str: the cluster's name")
    address = Attribute("Address that is asked (the endpoint's, or with the check's `port`)")
    hostname = Attribute("str: the first that may stand in Host of the endpoint's own name, the cluster's name and its address")
    timeout_seconds = Attribute("float: after this much time the probe has failed")

    def request(method: bytes, path: bytes, headers: Any = None, body: bytes = b"", limit_bytes: int = 65536) -> object:
        """A request over the cluster's own protocol and TLS, identity checks included. Deferred of an object with `status`, `headers`, `body`, `trailers` (`Headers` or None) and `version`
        (11 or 20); fails with an `UpstreamError` that says in words what happened. Host is `hostname` unless `headers` has one. Sent again once over a new connection when the kept one was stale."""

    def connect() -> object:
        """A new connection to the endpoint, with the cluster's TLS. Deferred of an `IProbeConnection`; fails with an `UpstreamError`."""


class IProbeConnection(Interface):
    """A connection of a health check. Closed when the probe ends, whatever the check does."""

    def send(data: bytes) -> None:
        """Write these octets."""

    def receive() -> object:
        """Deferred of the next octets, any number; b"" when the endpoint has ended its side. One at a time."""

    def close() -> None:
        """Close it now."""


class IDiscovery(Interface):
    """Kind `discovery`: what endpoints does a cluster have? One instance for each cluster, made after all clusters are and before any listener opens."""

    def watch(changed: Any) -> object:
        """Called once, after every plugin's `start`: from now on call `changed(endpoints)` (reactor thread; a sequence of `sidecar.model.Endpoint`, always the whole set, each address once) when
        what is known differs. Not after a look-up that failed: what was known stays in use, and only an answer that says so makes the set empty. Returns a Deferred (or coroutine) that
        fires when the first answer is there or need not be waited for, or None; the start waits for it for at most the cluster's `initial_fetch_timeout`. What it raises fails the
        start, or with `fail_open` leaves the cluster without endpoints."""

    def stop() -> None:
        """End watching. `changed` is not called any more. Also called when `watch` raised."""

    def snapshot() -> dict[str, Any]:
        """For `/clusters` and metrics: `source` (str: where it looks, in a few words), `last_success` (POSIX seconds of the last good answer, or None), `last_error` (str: why the last look-up
        failed, "" when it did not), `failures` (int: look-ups that failed). Plain values; others may stand beside them. Must be quick."""


class IAccessLog(Interface):
    """Kind `access-log`: where records go. Synchronous; must not wait: it buffers."""

    def log(record: Any) -> None:
        """Called once for each exchange with its `ExchangeRecord`, which it must not keep."""


class ILineLog(Interface):
    """An access log that writes text, most of which is the same for many exchanges: it is told of them in this way and not by `IAccessLog.log`."""

    def log_line(likeness: Any, own: Any) -> None:
        """Called once for each exchange. `likeness`: `sidecar.record.Likeness`, the same for all that are alike; `own`: `sidecar.record.OwnFields`, not to be kept."""


class ICertificateSource(Interface):
    """Kind `certificate-source`: where an identity comes from."""

    def load() -> object:
        """The `Material` as it is now (`sidecar.identity.material`). Raises `ValueError` with a sentence for a person when it is broken, incomplete or expired."""

    def watch(changed: Any) -> None:
        """From now on call `changed()` (no arguments, reactor thread) whenever `load` may give something new. Called once, at the start; ended by `stop`."""

    def stop() -> None:
        """End watching."""


# -- the data path: who promises what to whom ------------------------------------------------------------------------------------------------


class IDownstreamStream(Interface):
    """The client's side of one exchange. The exchange calls these; nothing goes to the socket before `flush` or the end of the batch. After `send_end`, `reset`, or a head with
    `end_stream`, nothing but `flush` is called."""

    def send_informational(head: Any) -> None:
        """A 1xx head (not 101). Dropped for an HTTP/1.0 client."""

    def send_head(head: Any) -> None:
        """The final head, once."""

    def send_data(chunk: bytes) -> None:
        """A chunk of the body, or of an open tunnel."""

    def send_last(chunk: bytes) -> None:
        """`send_data` and `send_end(None)` in one, for a body."""

    def send_end(trailers: Any) -> None:
        """The end of the body; `trailers` is a `Headers` or None."""

    def flush() -> None:
        """Write what was collected, in one go."""

    def open_tunnel() -> None:
        """After `send_head` of a 101 or of a 2xx to CONNECT: from now on data is opaque in both directions; `send_end` ends our sending side only."""

    def reset(error: Any) -> None:
        """Give up: what was sent so far is flushed, then the connection closes (HTTP/1) or the stream is reset (HTTP/2)."""

    def release() -> None:
        """The exchange is over and its record written: the connection may go on with the next request, or close."""

    timer = Attribute("Timer of the transport's wheel, lent to the exchange: when it fires the stream calls `timed_out`")

    def pause_request() -> None:
        """No more `request_data` after what is already being delivered, until `resume_request`."""

    def resume_request() -> None:
        """Undo `pause_request`."""


class IUpstreamStream(Interface):
    """The application's side of one attempt. Same rules as for `IDownstreamStream`. After `reset`, or once `response_end` was delivered and the request was sent, it belongs to nobody."""

    endpoint = Attribute("the cluster's endpoint object: `.address`, `.text` (the address in words), `.weight`, `.active`")
    is_reused = Attribute("bool: other exchanges used this connection before")
    tls = Attribute("TLSFacts or None")

    def send_head(head: Any) -> None:
        """The request's head, once, first."""

    def send_data(chunk: bytes) -> None:
        """A chunk of the body, or of an open tunnel."""

    def send_last(chunk: bytes) -> None:
        """`send_data` and `send_end(None)` in one, for a body."""

    def send_end(trailers: Any) -> None:
        """The end of the body; not called after a head with `end_stream`."""

    def flush() -> None:
        """Write what was collected, in one go."""

    def open_tunnel() -> None:
        """After a 101, or a 2xx to CONNECT, arrived: data is opaque from now on."""

    def reset(error: Any) -> None:
        """Abandon the attempt; no more calls to the exchange follow."""

    def pause_response() -> None:
        """No more `response_data` until `resume_response`."""

    def resume_response() -> None:
        """Undo `pause_response`."""


class IStreamOwner(Interface):
    """The exchange, as both sides see it."""

    def request_data(chunk: bytes) -> None:
        """From downstream: a chunk of the body or tunnel."""

    def request_last(chunk: bytes) -> bool:
        """From downstream: `request_data`, `request_end(None)` and `flush_request` in one. False: the chunk alone was taken, and `request_end` is to follow unless
        the exchange paused the request meanwhile: then when it is resumed."""

    def request_end(trailers: Any) -> None:
        """From downstream: the body's end, or the end of the client's side of a tunnel."""

    def downstream_lost(error: Any) -> None:
        """From downstream: the client is gone or broke the rules. No call to the downstream stream may follow."""

    def timed_out() -> None:
        """From downstream: the timer lent to the exchange fired."""

    def flush_request() -> None:
        """From downstream: the batch that was read is delivered; write what it produced."""

    def downstream_congested() -> None:
        """From downstream: our writes to the client pile up above the high watermark."""

    def downstream_drained() -> None:
        """From downstream: they are below the low watermark again."""

    def upstream_ready(stream: Any) -> None:
        """From the connector: a stream for this attempt. May be called before `open` returned."""

    def upstream_unavailable(error: Any, endpoint: Any) -> None:
        """From the connector: there will be none (`UpstreamError`). `endpoint` may be None."""

    def response_head(head: Any) -> None:
        """From upstream: a head, informational or final."""

    def response_data(chunk: bytes) -> None:
        """From upstream: a chunk of the body or tunnel."""

    def response_last(chunk: bytes) -> bool:
        """From upstream: `response_data` and `response_end(None)` in one. False: as for `request_last`."""

    def response_end(trailers: Any) -> None:
        """From upstream: the body's end, or the end of the application's side of a tunnel."""

    def response_failed(error: Any) -> None:
        """From upstream: the attempt broke (`UpstreamError`). No call to the upstream stream may follow."""

    def upstream_congested() -> None:
        """From upstream: our writes to the application pile up."""

    def upstream_drained() -> None:
        """From upstream: they are below the low watermark again."""


class IConnector(Interface):
    """A cluster, ready to give streams: balancer, pools and limits behind one question for each attempt."""

    name = Attribute("str: the cluster's name")

    def open(owner: Any, tried: tuple[Any, ...], fresh: bool) -> object:
        """Ask for a stream to an endpoint other than `tried`; `fresh`: on a new connection. Answers by `upstream_ready` or `upstream_unavailable`, perhaps before returning.
        Returns a ticket with `cancel()` (harmless after the answer)."""

    def has_other(tried: tuple[Any, ...], match: Any, also_ejected: bool = False) -> bool:
        """Is there an endpoint that nobody says anything against, beside those `tried`, for requests with this `metadata_match` (or None)? `also_ejected`: or one that only its own
        earlier answers speak against. Of very many only some are looked at."""
