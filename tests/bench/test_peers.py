"""The configurations that the benchmark writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from bench.certificates import write_certificates
from bench.peers import ENVOY_RECORD, PEERS, RULE_METHODS, Plan, envoy_configuration, nginx_configuration, sidecar_configuration
from sidecar.address import Address
from sidecar.model import Config


def plan(*, tls: bool) -> Plan:
    """A plan whose files need not exist."""
    return Plan(
        port=1001,
        upstream_port=1002,
        admin_port=1003,
        directory=Path("/bench"),
        tls=tls,
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


@pytest.mark.parametrize("tls", [False, True])
def test_sidecar_configuration_fits_the_model(tls: bool) -> None:
    """The sidecar's file is the full form of the model, with all that is measured switched on."""
    config = msgspec.convert(spelt_out(sidecar_configuration(plan(tls=tls))), Config)
    (chain,) = config.listeners[0].filter_chains
    assert chain.http is not None and chain.http.tracing is not None
    assert [each.kind for each in chain.http.http_filters] == ["authorizer"]
    assert [each.kind for each in chain.http.access_logs] == ["access-log"]
    assert (chain.tls is not None) == tls
    assert [each.name for each in config.certificates] == (["server"] if tls else [])
    assert config.admin is not None and config.admin.address.port == 1003


@pytest.mark.parametrize("tls", [False, True])
def test_envoy_does_the_same_work(tls: bool) -> None:
    """Envoy's file has the record, the policy, the retries and the request id that the sidecar has, and the same methods in its policy."""
    text = json.dumps(envoy_configuration(plan(tls=tls)))
    for part in ("FileAccessLog", "http.rbac", "retry_policy", "generate_request_id", *RULE_METHODS, *(json.dumps(each) for each in ENVOY_RECORD.values())):
        assert part in text
    assert ("DownstreamTlsContext" in text) == tls


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
