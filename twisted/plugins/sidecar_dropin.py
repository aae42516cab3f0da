"""What the sidecar registers with Twisted, and its own plugins: names only, so that looking at this file imports nothing heavy."""

from __future__ import annotations

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

from sidecar.extension import Extension

# -- what twistd sees ------------------------------------------------------------------------------------------------------------------------

service = ServiceMaker("sidecar", "sidecar.tap", "a service-mesh sidecar: mutual TLS, routing, policy and telemetry beside an application", "sidecar")
reactor = Reactor("sidecar", "sidecar.transport.reactor", "epoll(7) with a short way to the sidecar's own transports; `twistd sidecar` picks it by itself")

# -- the built-in plugins, declared in the way that everybody else's are ---------------------------------------------------------------------

address_list = Extension(
    kind="connection-filter",
    name="address-list",
    target="sidecar.filters.address_list.AddressList",
    summary="allows or refuses connections by the peer's address",
)
mtls = Extension(
    kind="authenticator",
    name="mtls",
    target="sidecar.filters.mtls.MTLSPrincipal",
    summary="takes the verified SPIFFE ID of the peer's certificate as the caller's name",
)
rules = Extension(
    kind="authorizer",
    name="rules",
    target="sidecar.filters.rules.Rules",
    summary="allows or denies by principal, method and path",
)
token_bucket = Extension(
    kind="rate-limiter",
    name="token-bucket",
    target="sidecar.filters.token_bucket.TokenBucketLimiter",
    summary="limits requests per second in this process, for each caller or for all",
)
headers = Extension(
    kind="filter",
    name="headers",
    target="sidecar.filters.header_edits.HeaderEdits",
    summary="sets, adds and removes header fields of requests and responses",
)
cors = Extension(
    kind="filter",
    name="cors",
    target="sidecar.filters.cors.Cors",
    summary="answers browsers' preflight requests and says which origins may read answers",
)
fault = Extension(
    kind="filter",
    name="fault",
    target="sidecar.filters.fault.Fault",
    summary="delays, aborts and slows answers on purpose, for a share of the requests",
)
adaptive_concurrency = Extension(
    kind="filter",
    name="adaptive-concurrency",
    target="sidecar.filters.adaptive_concurrency.AdaptiveConcurrency",
    summary="finds by measuring how many requests may run at a time, and refuses the others",
)
w3c = Extension(
    kind="tracer",
    name="w3c",
    target="sidecar.filters.w3c.W3CTracer",
    summary="W3C trace context (traceparent, tracestate): a server and a client span for each exchange",
)
json_spans = Extension(
    kind="span-exporter",
    name="json",
    target="sidecar.export.spans.JSONSpans",
    summary="writes spans as JSON lines to a file or to standard output",
)
json_lines = Extension(
    kind="access-log",
    name="json",
    target="sidecar.export.access_log.JSONLines",
    summary="writes a JSON line for each exchange to a file or to standard output",
)
pem_files = Extension(
    kind="certificate-source",
    name="pem-files",
    target="sidecar.identity.pem_files.PEMFiles",
    summary="reads certificate, key and trusted authorities from PEM files and watches them",
)
grpc_web = Extension(
    kind="filter",
    name="grpc-web",
    target="sidecar.filters.grpc_web.GRPCWeb",
    summary="translates gRPC-Web, binary and text, to gRPC and back while it streams",
)
least_request = Extension(
    kind="balancer",
    name="least-request",
    target="sidecar.cluster.least_request.LeastRequest",
    summary="takes the less busy of two endpoints, by weight",
)
maglev = Extension(
    kind="balancer",
    name="maglev",
    target="sidecar.cluster.maglev.Maglev",
    summary="keeps equal keys at one endpoint, with a table: fair and quick",
)
peak_ewma = Extension(
    kind="balancer",
    name="peak-ewma",
    target="sidecar.cluster.peak_ewma.PeakEWMA",
    summary="takes the one of two endpoints that answers sooner, for its load",
)
random_choice = Extension(
    kind="balancer",
    name="random",
    target="sidecar.cluster.random_choice.RandomChoice",
    summary="takes any endpoint, by weight",
)
ring_hash = Extension(
    kind="balancer",
    name="ring-hash",
    target="sidecar.cluster.ring_hash.RingHash",
    summary="keeps equal keys at one endpoint, with a ring: least movement",
)
round_robin = Extension(
    kind="balancer",
    name="round-robin",
    target="sidecar.cluster.round_robin.RoundRobin",
    summary="takes the endpoints in turn, by weight",
)
conditions = Extension(
    kind="retry-policy",
    name="conditions",
    target="sidecar.policy.conditions.Conditions",
    summary="Envoy's retry_on: errors, statuses, header fields and gRPC statuses that are worth another attempt",
)
http_check = Extension(
    kind="health-check",
    name="http",
    target="sidecar.filters.http_check.HTTPCheck",
    summary="asks for a path and looks at status and body",
)
tcp_check = Extension(
    kind="health-check",
    name="tcp",
    target="sidecar.filters.tcp_check.TCPCheck",
    summary="connects, and may send octets and wait for others",
)
grpc_check = Extension(
    kind="health-check",
    name="grpc",
    target="sidecar.filters.grpc_check.GRPCCheck",
    summary="asks grpc.health.v1.Health/Check",
)
static_endpoints = Extension(
    kind="discovery",
    name="static",
    target="sidecar.discovery.static.Static",
    summary="lists a cluster's endpoints in the configuration",
)
dns = Extension(
    kind="discovery",
    name="dns",
    target="sidecar.discovery.dns.DNS",
    summary="asks name servers: A, AAAA and SRV records, their TTLs honoured",
)
endpoint_file = Extension(
    kind="discovery",
    name="file",
    target="sidecar.discovery.file.EndpointFile",
    summary="reads endpoints from a JSON or YAML file and watches it",
)
consul = Extension(
    kind="discovery",
    name="consul",
    target="sidecar.discovery.consul.Consul",
    summary="asks Consul for a service's instances, by blocking queries",
)
kubernetes = Extension(
    kind="discovery",
    name="kubernetes",
    target="sidecar.discovery.kubernetes.Kubernetes",
    summary="lists and watches a Kubernetes service's EndpointSlices",
)
