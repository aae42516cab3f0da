"""One tree of everything that can end an exchange, a connection or a start.

A class carries what the outside sees; raising code adds one sentence and nothing more (`raise HeadTooLarge("the head has more than 64 KiB")`):

- `status`: the HTTP status of the local reply; `grpc_status`: its gRPC twin; `h2_code`: the HTTP/2 error code when a stream is reset (RFC 9113 section 7)
- `flag`: Envoy's response flag in access records and metrics ("" when Envoy has none)
- `code`: our stable name for it, in problem+json and metrics; never reused for another meaning
- `side`: who failed: "downstream" (the client), "upstream" (the application called), "sidecar" (us), "policy" (a rule said no), "plugin"
- `retry_safe`: nothing of the request can have reached the application
- `hint`: what a person may do about it

Only `proxy/replies.py` turns these into replies.
"""

from __future__ import annotations

from collections.abc import Sequence


class SidecarError(Exception):
    """The root: a failure of our own."""

    status = 500
    grpc_status = 13
    h2_code = 2
    flag = ""
    code = "internal-error"
    side = "sidecar"
    retry_safe = False
    hint = "This is a mistake of the sidecar; the log has the details."

    @property
    def sentence(self) -> str:
        """What happened, for a person."""
        return str(self) or (self.__doc__ or "").split("\n")[0]


# -- the client's mistakes -------------------------------------------------------------------------------------------------------------------


class DownstreamError(SidecarError):
    """The client sent something that cannot be served."""

    status = 400
    grpc_status = 3
    h2_code = 1
    flag = "DPE"
    code = "bad-request"
    side = "downstream"
    hint = "Look at the bytes the client sends; they break RFC 9110 or 9112."


class BadFraming(DownstreamError):
    """The message's length is ambiguous or malformed (RFC 9112 section 6)."""

    code = "bad-framing"


class BadHost(DownstreamError):
    """Host is missing, repeated or malformed (RFC 9112 section 3.2)."""

    code = "bad-host"


class TargetTooLong(DownstreamError):
    """The request line is longer than the limit."""

    status = 414
    code = "target-too-long"
    hint = "Shorten the target or raise limits.head_bytes."


class HeadTooLarge(DownstreamError):
    """The head has more bytes or fields than the limit."""

    status = 431
    grpc_status = 8
    code = "head-too-large"
    hint = "Send fewer or smaller fields, or raise limits.head_bytes or limits.head_fields."


class BodyTooLarge(DownstreamError):
    """The body is longer than what may be buffered."""

    status = 413
    grpc_status = 8
    flag = ""
    code = "body-too-large"
    hint = "Send a smaller body, or raise the buffer limit of the plugin that buffers it."


class UnknownTransferCoding(DownstreamError):
    """A transfer coding other than a single `chunked` (RFC 9112 section 6.1)."""

    status = 501
    grpc_status = 12
    code = "unknown-transfer-coding"
    hint = "Only `Transfer-Encoding: chunked` is understood."


class VersionNotSupported(DownstreamError):
    """A major version of HTTP that is not spoken here."""

    status = 505
    code = "version-not-supported"
    hint = "Use HTTP/1.1."


class UpgradeRefused(DownstreamError):
    """The listener does not allow this upgrade."""

    status = 403
    flag = ""
    code = "upgrade-refused"
    hint = "Name the protocol under `upgrades` of the listener's http settings."


class RequestTimeout(DownstreamError):
    """The client did not send its request in time."""

    status = 408
    grpc_status = 4
    h2_code = 8
    flag = "DT"
    code = "request-timeout"
    hint = "Send the whole head within limits.head_timeout and keep the body moving."


class DownstreamClosed(DownstreamError):
    """The client went away before its answer was complete."""

    status = 499
    grpc_status = 1
    h2_code = 8
    flag = "DC"
    code = "downstream-closed"
    hint = "Nothing to answer; see the client's own time limits."


# -- rules that say no -----------------------------------------------------------------------------------------------------------------------


class RouteNotFound(SidecarError):
    """No virtual host or route takes this request."""

    status = 404
    grpc_status = 12
    flag = "NR"
    code = "no-route"
    side = "policy"
    hint = "`sidecar config expand` shows the routes; add one, or check the Host the client sends."


class Unauthenticated(SidecarError):
    """The caller did not prove who it is."""

    status = 401
    grpc_status = 16
    flag = "UAEX"
    code = "unauthenticated"
    side = "policy"
    hint = "Present the credential that the authenticator named in the decision record asks for."


class Denied(SidecarError):
    """A rule refused this caller."""

    status = 403
    grpc_status = 7
    flag = "UAEX"
    code = "denied"
    side = "policy"
    hint = "The rule that decided is named in the detail and in the access record."


class RateLimited(SidecarError):
    """The caller has used up what it may have for now."""

    status = 429
    grpc_status = 8
    flag = "RL"
    code = "rate-limited"
    side = "policy"
    hint = "Wait as long as Retry-After says."


class Draining(SidecarError):
    """The sidecar is shutting down and takes no new request."""

    status = 503
    grpc_status = 14
    flag = ""
    code = "draining"
    retry_safe = True
    hint = "Try again on another connection."


class Overloaded(SidecarError):
    """A limit of the sidecar itself is reached."""

    status = 503
    grpc_status = 14
    flag = "OM"
    code = "overloaded"
    retry_safe = True
    hint = "Raise the limit named in the detail or send less."


class ConcurrencyLimited(SidecarError):
    """As many requests run as the application does well with."""

    status = 503
    grpc_status = 14
    flag = "UO"
    code = "concurrency-limited"
    side = "policy"
    retry_safe = True
    hint = "Send fewer requests at a time, or add instances of the application."


class FaultInjected(SidecarError):
    """An error made on purpose, to see what callers make of it. `status`, `grpc_status`: what the fault filter's configuration says."""

    status = 503
    grpc_status = 14
    flag = "FI"
    code = "fault-injected"
    side = "policy"
    hint = "This is no failure: a `fault` filter of the sidecar is configured to answer so."

    def __init__(self, sentence: str = "", status: int = 503, grpc_status: int = 14) -> None:
        super().__init__(sentence)
        self.status = status
        self.grpc_status = grpc_status


class PluginFailed(SidecarError):
    """A plugin raised an exception or gave a verdict that makes no sense."""

    status = 500
    code = "plugin-failed"
    side = "plugin"
    hint = "The log has the traceback. `fail_open: true` on the plugin's entry lets requests pass when it fails."


class PluginTimeout(SidecarError):
    """A plugin had not answered when the route's timeout was over."""

    status = 504
    grpc_status = 4
    code = "plugin-timeout"
    side = "plugin"
    hint = "Find out what the plugin waits for, and give it a timeout of its own that is shorter than the route's."


# -- the upstream side -----------------------------------------------------------------------------------------------------------------------


class UpstreamError(SidecarError):
    """The application called did not answer as it should."""

    status = 503
    grpc_status = 14
    flag = "UC"
    code = "upstream-error"
    side = "upstream"
    hint = "Look at the application behind this cluster."


class NoCluster(UpstreamError):
    """The route names a cluster that does not exist."""

    flag = "NC"
    code = "no-cluster"
    side = "sidecar"
    retry_safe = True
    hint = "`sidecar check` finds such routes before a start."


class NoHealthyEndpoint(UpstreamError):
    """The cluster has no endpoint that may be used."""

    flag = "UH"
    code = "no-healthy-endpoint"
    retry_safe = True
    hint = "/clusters at the admin address lists the endpoints and why each is out."


class UpstreamOverflow(UpstreamError):
    """A circuit limit of the cluster is reached."""

    flag = "UO"
    code = "upstream-overflow"
    retry_safe = True
    hint = "Raise the limit named in the detail, or add endpoints."


class CircuitOpen(UpstreamOverflow):
    """Too many requests to the cluster failed; for a while none is sent."""

    code = "circuit-open"
    hint = "Look at what the requests before failed with; /clusters shows the circuit."


class ConnectFailed(UpstreamError):
    """No connection to the endpoint could be made."""

    flag = "UF"
    code = "connect-failed"
    retry_safe = True
    hint = "Is the application listening at this address?"


class ConnectTimeout(ConnectFailed):
    """The endpoint did not accept a connection in time."""

    code = "connect-timeout"
    hint = "Is the address reachable? `connect_timeout` of the cluster is the limit."


class UpstreamHandshakeFailed(ConnectFailed):
    """Mutual TLS with the upstream failed."""

    code = "upstream-handshake-failed"
    hint = "Compare the two identities, their issuers and validity: `sidecar ca show FILE` prints a certificate."


class UpstreamUndelivered(ConnectFailed):
    """The sidecar at the other end says that nothing of the request reached its application."""

    code = "upstream-undelivered"
    hint = "The answer's own detail says why; look at the application and the sidecar there."


class UpstreamClosed(UpstreamError):
    """The upstream closed or reset the connection before its answer was complete."""

    code = "upstream-closed"
    hint = "The application ended the connection; its own log should say why."


class UpstreamReset(UpstreamClosed):
    """The upstream reset the stream before its answer was complete."""

    flag = "UR"
    code = "upstream-reset"
    hint = "The application gave the request up; its own log should say why."


class UpstreamStalled(UpstreamClosed):
    """We gave the connection or stream up, because the upstream took nothing."""

    flag = "LR"
    code = "upstream-stalled"
    hint = "Is the application stuck? It took nothing of what was sent to it."


class UpstreamProtocolError(UpstreamError):
    """The upstream's answer breaks HTTP."""

    status = 502
    h2_code = 2
    flag = "UPE"
    code = "upstream-protocol-error"
    hint = "Look at the bytes the application sends."


class UpstreamWantsHTTP1(UpstreamProtocolError):
    """The upstream takes this request over HTTP/1.1 only, and that is not spoken with it."""

    code = "http-version-required"
    retry_safe = True
    hint = "Let the cluster speak HTTP/1.1 as well: `protocol: auto` with TLS, or `h1`."


class UpstreamBodyTooLarge(UpstreamError):
    """The answer's body is longer than what may be buffered."""

    status = 502
    flag = ""
    code = "upstream-body-too-large"
    hint = "Raise the buffer limit of the plugin that buffers it."


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer within the route's timeout."""

    status = 504
    grpc_status = 4
    h2_code = 8
    flag = "UT"
    code = "upstream-timeout"
    hint = "Raise the route's `timeout`, or find out why the application is slow."


class StreamIdleTimeout(UpstreamTimeout):
    """Nothing moved on the exchange in either direction for the idle timeout."""

    flag = "SI"
    code = "stream-idle-timeout"
    hint = "Raise `idle_timeout`, or let the application send something in between."


class StreamDurationExceeded(UpstreamTimeout):
    """The exchange took longer than a whole exchange may."""

    flag = "DT"
    code = "stream-duration-exceeded"
    hint = "Raise the route's `max_stream_duration`, or let the caller ask for more time with grpc-timeout."


# -- connections -----------------------------------------------------------------------------------------------------------------------------


class HandshakeFailed(SidecarError):
    """A TLS handshake failed; the sentence names both sides and says the reason in words."""

    code = "handshake-failed"


class ConnectionRefusedByPlugin(SidecarError):
    """A connection filter refused the connection."""

    code = "connection-refused"
    side = "policy"


# -- the start -------------------------------------------------------------------------------------------------------------------------------


class Problem:
    """One thing wrong in a configuration file: `file`:`line`:`column` (1-based), the `path` of keys to it ("clusters[0].endpoints"), a sentence, a suggestion or ""."""

    __slots__ = ("column", "file", "line", "message", "path", "suggestion")

    def __init__(self, message: str, file: str = "", line: int = 0, column: int = 0, path: str = "", suggestion: str = "") -> None:
        self.message = message
        self.file = file
        self.line = line
        self.column = column
        self.path = path
        self.suggestion = suggestion

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: " if self.file else ""
        path = f"{self.path}: " if self.path else ""
        return f"{where}{path}{self.message}{' ' + self.suggestion if self.suggestion else ''}"

    def __repr__(self) -> str:
        return f"<Problem {self}>"


class ConfigError(SidecarError):
    """The configuration is wrong. `problems` holds all of them, in the order of the file."""

    code = "bad-configuration"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class ListenFailed(SidecarError):
    """An address cannot be listened on."""

    code = "listen-failed"
    hint = "Does another process use the address? Ports below 1024 need privileges."


class PluginLookupFailed(SidecarError):
    """No such plugin, or it is broken, or its name is taken twice; the sentence lists what is there."""

    code = "no-such-plugin"
