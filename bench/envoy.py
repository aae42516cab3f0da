"""Envoy's bootstrap for the same work as the sidecar's: access record, policy, retries, request id, trace context, metrics."""

from __future__ import annotations

from typing import Any

from bench.application import APPLICATION_IDENTITY
from bench.cases import Plan

# The fields of the sidecar's access record, in Envoy's operators.
ENVOY_RECORD = {
    "time": "%START_TIME%",
    "listener": "inbound",
    "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "method": "%REQ(:METHOD)%",
    "authority": "%REQ(:AUTHORITY)%",
    "path": "%REQ(:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "detail": "%RESPONSE_CODE_DETAILS%",
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "endpoint": "%UPSTREAM_HOST%",
    "peer_identity": "%DOWNSTREAM_PEER_URI_SAN%",
    "request_bytes": "%BYTES_RECEIVED%",
    "response_bytes": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "upstream_ms": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace": "%REQ(TRACEPARENT)%",
    "user_agent": "%REQ(USER-AGENT)%",
}

RULE_METHODS = ("GET", "HEAD", "POST")


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _typed(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.{kind}", **fields}}


def envoy_configuration(plan: Plan) -> dict[str, Any]:
    """Envoy's bootstrap. Request ids are made, spans are not: without a collector Envoy makes none, which is to its advantage."""
    methods = [{"header": {"name": ":method", "string_match": {"exact": method}}} for method in RULE_METHODS]
    permission = {"and_rules": {"rules": [{"or_rules": {"rules": methods}}, {"url_path": {"path": {"prefix": "/"}}}]}}
    rbac = _typed(
        "envoy.filters.http.rbac",
        "extensions.filters.http.rbac.v3.RBAC",
        rules={"action": "ALLOW", "policies": {"readers": {"permissions": [permission], "principals": [{"any": True}]}}},
    )
    router = _typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")
    log = _typed(
        "envoy.access_loggers.file",
        "extensions.access_loggers.file.v3.FileAccessLog",
        path=str(plan.directory / "envoy.log"),
        log_format={"json_format": ENVOY_RECORD},
    )
    route = {
        "name": "all",
        "match": {"prefix": "/"},
        "route": {"cluster": "app", "timeout": "15s", "retry_policy": {"retry_on": "connect-failure,refused-stream,reset", "num_retries": 2}},
    }
    # W3C trace context as the sidecar's: made or continued for every request and sent on, and no span leaves either process (Envoy makes none of it without a
    # tracer).
    tracer = _typed(
        "envoy.tracers.opentelemetry",
        "config.trace.v3.OpenTelemetryConfig",
        http_service={"http_uri": {"uri": "http://127.0.0.1/v1/traces", "cluster": "app", "timeout": "1s"}},
        service_name="bench",
    )
    http = _typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="inbound",
        codec_type="AUTO",
        generate_request_id=True,
        tracing={"provider": tracer, "random_sampling": {"value": 0}},
        access_log=[log],
        http_filters=[rbac, router],
        route_config={"name": "inbound", "virtual_hosts": [{"name": "app", "domains": ["*"], "routes": [route]}]},
    )
    case = plan.case
    raw = _typed("envoy.filters.network.tcp_proxy", "extensions.filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="inbound", cluster="app")
    chain: dict[str, Any] = {"filters": [raw if case.is_raw else http]}
    if case.tls:
        chain["transport_socket"] = _typed(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={"tls_certificates": [_certificate(plan)], "alpn_protocols": ["http/1.1"]},
        )
    return {
        "admin": {"address": _address(plan.admin_port)},
        "static_resources": {"listeners": [{"name": "inbound", "address": _address(plan.port), "filter_chains": [chain]}], "clusters": [_cluster(plan)]},
    }


def _cluster(plan: Plan) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(plan.upstream_port)}}]}]
    cluster = {"name": "app", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {"cluster_name": "app", "endpoints": endpoints}}
    if plan.case.upstream != "h1":
        options = _typed("", "extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})["typed_config"]
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    if plan.case.mutual_tls:
        identity = {"san_type": "URI", "matcher": {"exact": APPLICATION_IDENTITY}}
        trust = {"trusted_ca": {"filename": str(plan.trust)}, "match_typed_subject_alt_names": [identity]}
        cluster["transport_socket"] = _typed(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            common_tls_context={"tls_certificates": [_certificate(plan)], "validation_context": trust},
        )
    return cluster


def _certificate(plan: Plan) -> dict[str, Any]:
    return {"certificate_chain": {"filename": str(plan.certificate)}, "private_key": {"filename": str(plan.key)}}
