"""The configurations that the benchmark writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from bench.application import Application
from bench.cases import ALL, CASES, MESSAGE_OCTETS, Case, Plan
from bench.certificates import write_certificates
from bench.envoy import ENVOY_RECORD, RULE_METHODS, envoy_configuration
from bench.peers import PEERS, sidecar_configuration
from bench.programs import nginx_configuration
from sidecar.address import Address
from sidecar.model import Config, RouteTable


def plan(case: Case, directory: Path = Path("/bench")) -> Plan:
    """A plan whose files need not exist."""
    return Plan(
        case=case,
        port=1001,
        upstream_port=1002,
        admin_port=1003,
        directory=directory,
        certificate=Path("/bench/c.pem"),
        key=Path("/bench/k.pem"),
        trust=Path("/bench/t.pem"),
        combined=Path("/bench/ck.pem"),
    )


def spelt_out(value: Any, key: str = "") -> Any:
    """The value with addresses taken apart as the model holds them; the loader does that in a file."""
    if isinstance(value, dict):
        return {name: spelt_out(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [spelt_out(each) for each in value]
    return attrs.asdict(Address.parse(value)) if key == "address" else value


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_sidecar_configuration_fits_the_model(case: Case) -> None:
    """The sidecar's file is the full form of the model, with all that is measured switched on."""
    config = msgspec.convert(spelt_out(sidecar_configuration(plan(case))), Config)
    (chain,), (cluster,) = config.listeners[0].filter_chains, config.clusters
    if case.is_raw:
        assert chain.tcp is not None and chain.http is None
    else:
        assert chain.http is not None and chain.http.tracing is not None
        assert [each.kind for each in chain.http.http_filters] == ["authorizer"]
        assert [each.kind for each in chain.http.access_logs] == ["access-log"]
        assert isinstance(chain.http.routes, RouteTable) and chain.http.routes.virtual_hosts[0].routes[0].retry is not None
    assert (chain.tls is not None) == case.tls
    assert (cluster.tls is not None) == case.mutual_tls
    assert cluster.protocol == ("h1" if case.upstream == "h1" else "h2")
    assert [each.name for each in config.certificates] == (["server"] if case.tls or case.mutual_tls else [])
    assert config.admin is not None and config.admin.address.port == 1003


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_envoy_does_the_same_work(case: Case) -> None:
    """Envoy's file has the record, the policy, the retries and the request id that the sidecar has, and the same methods in its policy."""
    text = json.dumps(envoy_configuration(plan(case)))
    for part in ("FileAccessLog", "http.rbac", "retry_policy", "generate_request_id", *RULE_METHODS, *(each for each in ENVOY_RECORD.values() if "%" in each)):
        assert (part in text) != case.is_raw
    assert ("DownstreamTlsContext" in text) == case.tls
    assert ("UpstreamTlsContext" in text and "match_typed_subject_alt_names" in text) == case.mutual_tls
    assert ("http2_protocol_options" in text) == (case.upstream != "h1")
    assert ("tcp_proxy" in text) == case.is_raw


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_the_application_speaks_what_the_case_says(case: Case, tmp_path: Path) -> None:
    """nginx answers over HTTP/1.1 or HTTP/2, asking for a certificate where TLS is mutual; gRPC's answers end with a status in their trailers."""
    command = Application().command(plan(case, tmp_path))
    if case.upstream == "grpc":
        assert "--trailer=grpc-status: 0" in command
        assert (tmp_path / "content" / case.path.lstrip("/")).read_bytes() == case.body
    else:
        text = (tmp_path / "application.conf").read_text()
        assert (" http2" in text) == (case.upstream == "h2")
        assert ("ssl_verify_client on" in text) == case.mutual_tls


def test_a_grpc_message_has_its_prefix() -> None:
    """Five octets before the message: not compressed, and its length."""
    assert CASES["grpc"].body[:5] == b"\0" + MESSAGE_OCTETS.to_bytes(4, "big")
    assert len(CASES["grpc"].body) == MESSAGE_OCTETS + 5


def test_every_proxy_of_a_case_is_known() -> None:
    """A misspelt name would leave a proxy out silently, and no case is without Envoy to compare with."""
    for case in CASES.values():
        assert {"sidecar", "envoy"} <= case.proxies <= ALL == {peer.name for peer in PEERS}


def test_nginx_keeps_its_files_to_itself() -> None:
    """Every path of nginx's is inside the directory of the run: it needs no root and leaves nothing behind."""
    text = nginx_configuration(Path("/bench"), "app", "off", "")
    assert text.count(" /bench/") == 6  # pid and five temporary paths


def test_certificates_are_readable_by_the_owner_alone(tmp_path: Path) -> None:
    """The key's files have mode 0600, and the server's certificate comes first where both are in one file."""
    certificate, key, trust, combined = write_certificates(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in (key, combined)} == {0o600}
    assert combined.read_bytes() == certificate.read_bytes() + key.read_bytes()
    assert trust.read_bytes() != certificate.read_bytes()


def test_the_sidecar_comes_first() -> None:
    """The table begins with what it is about."""
    assert [peer.name for peer in PEERS] == ["sidecar", "envoy", "haproxy", "nginx"]
