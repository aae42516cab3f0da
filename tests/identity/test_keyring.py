"""Rotation: what is taken up, what is refused, who uses which certificate when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from sidecar.identity.material import Material
from sidecar.identity.pem_files import POLL_SECONDS, PEMFiles
from sidecar.model import DownstreamTLS, UpstreamTLS

PAYMENTS = "spiffe://example.org/ns/shop/sa/payments"


@pytest.fixture
def said() -> Any:
    """What is logged while the test runs, as text."""
    lines: list[str] = []

    def remember(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(remember)
    yield lines
    globalLogPublisher.removeObserver(remember)


def sha256(mesh: Any, pair: Any) -> str:
    """Which certificate the server of `pair` showed."""
    return str(pair.client_slot.check(pair.client, "a").peer_sha256)


def test_new_connections_use_the_replacement_and_old_ones_stay(mesh: Any, said: list[str]) -> None:
    """No restart, and nothing is cut."""
    source = mesh.source("payments")
    client, server = mesh.client(), mesh.server(source)
    mesh.keyring.watch()
    old = mesh.both(mesh.pair(client, server))
    context = server.current
    source.material = mesh.source("payments").material
    source.changed()
    assert server.current is not context
    new = mesh.both(mesh.pair(client, server))
    assert sha256(mesh, new) == source.material.certificate.sha256 != sha256(mesh, old)
    old.client.send(b"still here")
    assert old.server.recv(100) == b"still here"
    assert said == [f"certificate server was replaced: {source.material!r}; new connections use it"]
    assert next(each for each in mesh.keyring.snapshot() if each["name"] == "server")["rotations"] == 1


@pytest.mark.parametrize("broken", [ValueError("the key does not match the certificate of x"), RuntimeError("a bug in the plugin")])
def test_a_broken_replacement_is_refused_said_and_counted(mesh: Any, said: list[str], broken: Exception) -> None:
    """The old one goes on serving; the reason is in the log and in the snapshot."""
    source = mesh.source("payments")
    client, server = mesh.client(), mesh.server(source)
    mesh.keyring.watch()
    context, source.material = server.current, broken
    source.changed()
    assert server.current is context
    mesh.both(mesh.pair(client, server))
    assert f"the replacement of certificate server was refused, the old one goes on serving: {broken}" in said
    shown = next(each for each in mesh.keyring.snapshot() if each["name"] == "server")
    assert (shown["refusals"], shown["refusal"], shown["refused_at"], shown["rotations"]) == (1, str(broken), mesh.now, 0)


def test_what_openssl_does_not_take_is_refused_everywhere(mesh: Any) -> None:
    """One context that cannot be made, and no other is switched either."""
    source = mesh.source("payments")
    server = mesh.server(source)
    client = mesh.keyring.upstream_context(UpstreamTLS(certificate="server"), mesh.node)
    contexts = server.current, client.current
    chain, key = source.material.chain, mesh.source("payments").material.key
    source.material = mesh.unchecked(chain, key).material
    assert not mesh.keyring.reload("server")
    assert (server.current, client.current) == contexts
    assert "key values mismatch" in mesh.keyring.snapshot()[0]["refusal"]
    assert mesh.keyring.material("server") != source.material


def test_a_replacement_that_does_not_fit_its_use_is_refused(mesh: Any) -> None:
    """A listener's certificate that becomes a bundle alone."""
    source = mesh.source("payments")
    mesh.server(source)
    source.material = mesh.bundle(mesh.authority)
    assert not mesh.keyring.reload("server")
    assert mesh.keyring.snapshot()[0]["refusal"] == "certificate 'server' has no certificate, only trust; a listener needs one to show"


def test_putting_the_old_one_back_ends_the_complaint(mesh: Any) -> None:
    """Nothing is replaced, and nothing is wrong any more."""
    source = mesh.source("payments")
    server = mesh.server(source)
    good, source.material = source.material, ValueError("broken")
    mesh.keyring.reload("server")
    source.material = good
    context = server.current
    assert not mesh.keyring.reload("server")
    assert server.current is context
    assert (mesh.keyring.snapshot()[0]["refusal"], mesh.keyring.snapshot()[0]["refusals"]) == ("", 1)


def test_a_new_bundle_is_used_at_once(mesh: Any) -> None:
    """Trust rotates like certificates do, also when it comes from another source."""
    bundle = mesh.trust_source(mesh.authority)
    mesh.keyring.add("clients", bundle)
    server = mesh.server(trust="clients")
    client = mesh.client()
    mesh.both(mesh.pair(client, server))
    bundle.material = mesh.bundle(mesh.foreign)
    assert mesh.keyring.reload("clients")
    pair = mesh.pair(client, server).shake()
    assert "not in our trust bundle" in pair.server_words(pair.server_error)


def test_another_certificates_contexts_are_left_alone(mesh: Any) -> None:
    """Only what stands on the replaced one is made anew."""
    source = mesh.source("payments")
    mesh.server(source)
    client = mesh.client()
    before = client.current
    source.material = mesh.source("payments").material
    assert mesh.keyring.reload("server")
    assert client.current is before


def test_everything_that_stands_on_a_certificate_is_switched(mesh: Any) -> None:
    """Listeners and clusters alike."""
    source = mesh.source("payments")
    slots = [
        mesh.server(source),
        mesh.keyring.downstream_context(DownstreamTLS(certificate="server", client_certificate="none"), mesh.node),
        mesh.keyring.upstream_context(UpstreamTLS(certificate="server"), mesh.node),
    ]
    before = [slot.current for slot in slots]
    source.material = mesh.source("payments").material
    assert mesh.keyring.reload("server")
    assert all(slot.current is not context for slot, context in zip(slots, before, strict=True))


def test_a_new_name_is_said_aloud(mesh: Any, said: list[str]) -> None:
    """A rotation rarely means to change who we are."""
    source = mesh.source("payments")
    mesh.server(source)
    source.material = mesh.source("ledger").material
    assert mesh.keyring.reload("server")
    assert said[0] == "certificate server now names spiffe://example.org/ns/shop/sa/ledger, before it was spiffe://example.org/ns/shop/sa/payments"


def write(directory: Path, chain: bytes, key: bytes, trust: bytes) -> None:
    """The three files, as `sidecar ca issue` writes them."""
    for name, content in (("cert.pem", chain), ("key.pem", key), ("ca.pem", trust)):
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o600)


def files(mesh: Any, directory: Path) -> PEMFiles:
    """A source that looks at them by the mesh's clock."""
    from twisted.logger import Logger

    config = PEMFiles.Config(certificate=str(directory / "cert.pem"), key=str(directory / "key.pem"), trust=str(directory / "ca.pem"))
    return PEMFiles(config, SimpleNamespace(clock=mesh.clock, log=Logger()))


def issue(mesh: Any, days: float = 1, at: float | None = None) -> tuple[bytes, bytes, bytes]:
    """New files for payments."""
    return (*mesh.authority.issue(PAYMENTS, days=days, now=mesh.now if at is None else at), mesh.authority.trust_pem)


def test_files_rotate_under_a_running_keyring(mesh: Any, tmp_path: Path) -> None:
    """Good, then half, then whole again, then expired: two are taken up, two refused."""
    write(tmp_path, *issue(mesh))
    server = mesh.server(files(mesh, tmp_path))
    mesh.keyring.watch()
    seen = [server.current]

    def poll() -> tuple[bool, int, int]:
        mesh.clock.advance(POLL_SECONDS)
        seen.append(server.current)
        shown = mesh.keyring.snapshot()[0]
        return seen[-1] is not seen[-2], shown["rotations"], shown["refusals"]

    assert poll() == (False, 0, 0)
    write(tmp_path, *issue(mesh))
    assert poll() == (True, 1, 0)
    chain, key, _ = issue(mesh)
    (tmp_path / "cert.pem").write_bytes(chain)
    assert poll() == (False, 1, 1)
    assert poll() == (False, 1, 1)
    (tmp_path / "key.pem").write_bytes(key)
    assert poll() == (True, 2, 1)
    write(tmp_path, *issue(mesh, at=mesh.now - 3 * 86400))
    assert poll() == (False, 2, 2)
    assert "expired on" in mesh.keyring.snapshot()[0]["refusal"]
    mesh.keyring.stop()
    assert mesh.clock.getDelayedCalls() == []


def test_a_certificate_of_the_near_future_is_taken_up_when_its_time_comes(mesh: Any, tmp_path: Path) -> None:
    """The issuer's clock is ahead of ours: no file will change again, and still it is not forgotten."""
    write(tmp_path, *issue(mesh))
    mesh.server(files(mesh, tmp_path))
    mesh.keyring.watch()
    write(tmp_path, *issue(mesh, at=mesh.now + 300 + 20))
    mesh.clock.pump([POLL_SECONDS] * 5)
    assert mesh.keyring.snapshot()[0]["rotations"] == 0
    assert "is not valid before" in mesh.keyring.snapshot()[0]["refusal"]
    mesh.clock.pump([POLL_SECONDS] * 20)
    assert (mesh.keyring.snapshot()[0]["rotations"], mesh.keyring.snapshot()[0]["refusal"]) == (1, "")
    mesh.keyring.stop()
    assert mesh.clock.getDelayedCalls() == []


def test_waiting_for_a_certificate_ends_with_stop(mesh: Any, tmp_path: Path) -> None:
    """Nothing is left on the clock."""
    write(tmp_path, *issue(mesh))
    mesh.server(files(mesh, tmp_path))
    mesh.keyring.watch()
    write(tmp_path, *issue(mesh, at=mesh.now + 86400))
    mesh.clock.pump([POLL_SECONDS] * 2)
    mesh.keyring.stop()
    assert mesh.clock.getDelayedCalls() == []


def test_the_snapshot_has_dates_and_no_secret(mesh: Any) -> None:
    """What /certs shows; expiry counts down, below zero too."""
    mesh.server(mesh.source("payments", dns=("pay.local",), days=2))
    mesh.add_trust("bundle")
    bundle, server = mesh.keyring.snapshot()
    assert (bundle["name"], bundle["identity"], "not_after" in bundle) == ("bundle", "", False)
    assert bundle["authorities"][0]["subject"] == "CN=sidecar CA of example.org"
    assert (server["identity"], server["issuer"], server["dns_names"]) == (PAYMENTS, "CN=sidecar CA of example.org", ["pay.local"])
    assert (server["expires_in_seconds"], server["loaded_at"]) == (2 * 86400, mesh.now)
    mesh.clock.advance(3 * 86400)
    assert mesh.keyring.snapshot()[1]["expires_in_seconds"] == -86400
    key = mesh.keyring.material("server").key.decode().split("\n")[1]
    assert key not in str(mesh.keyring.snapshot())


def test_a_start_does_not_go_on_without_a_certificate(mesh: Any) -> None:
    """The sentence names the certificate."""
    with pytest.raises(ValueError) as caught:
        mesh.keyring.add("own", mesh.fixed(ValueError("certs/key.pem is empty")))
    assert str(caught.value) == "certificate 'own': certs/key.pem is empty"
    with pytest.raises(ValueError, match=r"certificate 'own': .* gave int, not a Material"):
        mesh.keyring.add("own", mesh.fixed(3))
    mesh.add_trust("own")
    with pytest.raises(ValueError, match="there are two certificates of the name 'own'"):
        mesh.add_trust("own")


def test_the_same_settings_share_a_slot(mesh: Any) -> None:
    """Ten listeners alike have one context."""
    first = mesh.server()
    assert mesh.keyring.downstream_context(DownstreamTLS(certificate="server"), mesh.node) is first
    assert mesh.keyring.downstream_context(DownstreamTLS(certificate="server", alpn=("h2",)), mesh.node) is not first


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"certificate": "other"}, "there is no certificate 'other'; there are bundle, lone, own"),
        ({"certificate": "bundle"}, "certificate 'bundle' has no certificate, only trust; a listener needs one to show"),
        ({"certificate": "own", "trust": "other"}, "there is no certificate 'other'; there are bundle, lone, own"),
        (
            {"certificate": "lone"},
            "certificate 'lone' has no trust bundle, so client certificates cannot be verified (client_certificate: require); "
            "give its source a `trust`, or name another one under `trust`",
        ),
        ({"certificate": "own", "trust_domains": ("Example.org",)}, "a trust domain has lower-case letters, digits, '.', '-' and '_' only, got 'Example.org'"),
    ],
)
def test_a_listeners_settings_that_cannot_work_are_refused(mesh: Any, settings: dict[str, Any], sentence: str) -> None:
    """When the context is asked for, that is before the listener opens."""
    add_three(mesh)
    with pytest.raises(ValueError) as caught:
        mesh.keyring.downstream_context(DownstreamTLS(**settings), mesh.node)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "the other side cannot be verified: name a `certificate` that has a trust bundle, or a `trust`"),
        ({"certificate": "bundle"}, "certificate 'bundle' has no certificate, only trust; name it as `trust`"),
        (
            {"certificate": "lone"},
            "certificate 'lone' has no trust bundle, so the other side cannot be verified; give its source a `trust`, or name another one under `trust`",
        ),
        (
            {"certificate": "own", "hostname": "a", "identities": (PAYMENTS,)},
            "`hostname` is for ordinary TLS servers, `identities` and `trust_domains` are for workloads: give one or the other",
        ),
        ({"certificate": "own", "identities": ("payments",)}, "a SPIFFE ID starts with spiffe://, got 'payments'"),
    ],
)
def test_a_clusters_settings_that_cannot_work_are_refused(mesh: Any, settings: dict[str, Any], sentence: str) -> None:
    """When the context is asked for."""
    add_three(mesh)
    with pytest.raises(ValueError) as caught:
        mesh.keyring.upstream_context(UpstreamTLS(**settings), mesh.node)
    assert str(caught.value) == sentence


def add_three(mesh: Any) -> None:
    """own: whole; lone: without a bundle; bundle: nothing else."""
    mesh.keyring.add("own", mesh.source("orders"))
    mesh.keyring.add("lone", mesh.source("orders", trust=b""))
    mesh.add_trust("bundle")


def test_an_ordinary_server_may_be_verified_by_the_systems_authorities(mesh: Any) -> None:
    """A host name and nothing else: as a browser would."""
    slot = mesh.keyring.upstream_context(UpstreamTLS(hostname="api.example.com"), mesh.node)
    pair = mesh.pair(slot, mesh.server(mesh.source("web", dns=("api.example.com",)), client_certificate="none")).shake()
    assert pair.client_words(pair.client_error).startswith("orders (without a certificate) refused payments at 10.0.0.5:15006: its certificate (spiffe://")
    assert "not in our trust bundle" in pair.client_words(pair.client_error)


def test_material_is_found_by_name(mesh: Any) -> None:
    """For those who need more than a context."""
    mesh.server()
    assert isinstance(mesh.keyring.material("server"), Material)
    with pytest.raises(ValueError, match="there is no certificate 'x'; there are server"):
        mesh.keyring.material("x")
