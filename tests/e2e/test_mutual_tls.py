"""Two sidecars and what is between them: who gets through, who does not, and what each is told."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.applications import Application, RawApplication, Request, Wire
from tests.e2e.clients import Channel, ask, connect, exchange, read_all
from tests.e2e.conftest import Certificates, Start
from tests.e2e.processes import Place, SidecarProcess, until

PAYMENTS = """
service: payments
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{identity}"}}
inbound: {{listen: "127.0.0.1:0", app: "{app}", mtls: {mode}}}
access_log: access.log
tracing: {{file: spans.log}}
admin: "127.0.0.1:0"
extensions:
  - kind: authorizer
    name: rules
    config: {{rules: [{{name: orders-only, principals: ["spiffe://mesh.example/ns/shop/sa/orders"]}}]}}
"""
# Orders' sidecar, with one cluster for each way in which a call can go wrong.
ORDERS = """
service: orders
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{orders}"}}
outbound:
  listen: "127.0.0.1:0"
  services:
    payments: {{endpoints: ["{payments}"]}}
    stranger: {{endpoints: ["{payments}"], identity: "spiffe://mesh.example/ns/shop/sa/somebody-else"}}
    expired: {{endpoints: ["{expired}"], identity: "spiffe://mesh.example/ns/shop/sa/payments"}}
    untrusted: {{endpoints: ["{untrusted}"], identity: "spiffe://mesh.example/ns/shop/sa/payments"}}
    plaintext: {{endpoints: ["{plaintext}"], identity: "spiffe://mesh.example/ns/shop/sa/payments"}}
    unsecured: {{endpoints: ["{payments}"], mtls: false}}
access_log: access.log
tracing: {{file: spans.log}}
admin: "127.0.0.1:0"
listeners:
  - {{name: as-intruder, address: "127.0.0.1:0", direction: outbound, filter_chains: [{{http: {{routes: intruder}}}}]}}
route_tables:
  - {{name: intruder, virtual_hosts: [{{name: all, routes: [{{cluster: as-intruder}}]}}]}}
clusters:
  - {{name: as-intruder, endpoints: ["{payments}"], tls: {{certificate: intruder}}}}
certificates:
  - name: intruder
    source: {{kind: certificate-source, name: pem-files, config: {{certificate: "{intruder}/cert.pem", key: "{intruder}/key.pem", trust: "{intruder}/ca.pem"}}}}
"""


def at(place: Place) -> str:
    """As a configuration file has it."""
    return f"{place[0]}:{place[1]}"


class Mesh:
    """Both sidecars, and the application behind the second."""

    def __init__(self, app: Application, orders: SidecarProcess, payments: SidecarProcess) -> None:
        self.app = app
        self.orders = orders
        self.payments = payments
        self.out = orders.places["outbound"]
        self.inside = payments.places["inbound"]


@pytest.fixture(scope="module", params=["", "asyncio"], ids=["sidecar", "asyncio"])
def mesh(request: pytest.FixtureRequest, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    directory = tmp_path_factory.mktemp("mesh")
    with ExitStack() as ends:
        expired = Application(context=certificates.context(certificates.issue("payments", "expired", age_days=10), server=True))
        untrusted = Application(context=certificates.context(certificates.issue("payments", "untrusted", certificates.stranger), server=True))
        app = Application()
        plaintext = RawApplication(lambda wire: wire.read_some() and wire.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
        for each in (app, expired, untrusted, plaintext):
            ends.callback(each.stop)
        identity = certificates.issue("payments")
        payments = SidecarProcess(directory / "payments", PAYMENTS.format(identity=identity, app=app.address, mode="strict"), reactor=request.param)
        ends.callback(payments.end)
        payments.wait_ready()
        config = ORDERS.format(
            orders=certificates.issue("orders"),
            intruder=certificates.issue("intruder"),
            payments=at(payments.places["inbound"]),
            expired=expired.address,
            untrusted=untrusted.address,
            plaintext=plaintext.address,
        )
        orders = SidecarProcess(directory / "orders", config, reactor=request.param)
        ends.callback(orders.end)
        yield Mesh(app, orders.wait_ready(), payments)


def test_allowed(mesh: Mesh) -> None:
    """Orders reaches payments' application, which learns who calls; bodies pass both ways."""
    answer = ask(mesh.out, "/facts", "POST", b"charge", Host="payments")
    fields = [(name.lower(), value) for name, value in answer.json["fields"]]
    callers = [value for name, value in fields if name == "x-forwarded-client-cert"]
    assert answer.status == 200 and answer.json["body"] == "charge" and answer.json["method"] == "POST"
    assert len(callers) == 1 and "URI=spiffe://mesh.example/ns/shop/sa/orders" in callers[0]
    assert ask(mesh.out, "/echo", "POST", b"x" * 5_000_000, Host="payments").body == b"x" * 5_000_000


def test_the_caller_cannot_be_forged(mesh: Mesh) -> None:
    """What a client writes into x-forwarded-client-cert does not arrive, in whatever spelling."""
    forged = "By=spiffe://mesh.example/ns/shop/sa/payments;URI=spiffe://mesh.example/ns/shop/sa/admin"
    data = f"GET /facts HTTP/1.1\r\nHost: payments\r\nX-Forwarded-Client-Cert: {forged}\r\nx-FORWARDED-client-cert: {forged}\r\nConnection: close\r\n\r\n"
    got = exchange(mesh.out, data.encode()).decode()
    assert "sa/orders" in got and "sa/admin" not in got


def test_one_trace_through_both(mesh: Mesh) -> None:
    """The trace id that the caller sends is in both sidecars' access records and spans."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    assert ask(mesh.out, "/traced", Host="payments", traceparent=f"00-{trace}-00f067aa0ba902b7-01").status == 200
    rows = [each.records(path="/traced")[0] for each in (mesh.orders, mesh.payments)]
    assert [row["trace_id"] for row in rows] == [trace, trace] and rows[0]["span_id"] != rows[1]["span_id"]
    assert rows[0]["request_id"] == rows[1]["request_id"] != ""
    assert (rows[0]["direction"], rows[1]["direction"]) == ("outbound", "inbound")
    assert rows[0]["upstream_identity"] == "spiffe://mesh.example/ns/shop/sa/payments"
    assert rows[1]["principal"] == rows[1]["peer_identity"] == "spiffe://mesh.example/ns/shop/sa/orders"
    for each in (mesh.orders, mesh.payments):
        assert until(lambda each=each: trace in (each.directory / "spans.log").read_text())  # type: ignore[misc]


def test_refused_by_identity(mesh: Mesh) -> None:
    """A good certificate of the wrong service gets through TLS, and 403 from the rules, with its name; the application sees nothing."""
    served = mesh.app.served
    answer = ask(mesh.orders.places["as-intruder"], "/")
    assert answer.status == 403 and answer.json["code"] == "denied" and "spiffe://mesh.example/ns/shop/sa/intruder" in answer.json["detail"]
    assert mesh.app.served == served


# Whom orders' sidecar meets, and what the caller is told beside the code.
MISTAKEN = {
    "stranger": ["spiffe://mesh.example/ns/shop/sa/payments", "spiffe://mesh.example/ns/shop/sa/somebody-else"],
    "expired": ["spiffe://mesh.example/ns/shop/sa/payments", "expired", "our clock"],
    "untrusted": ["sidecar CA of mesh.example"],
    "plaintext": ["TLS"],
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_the_outbound_leg_says_what_is_wrong(mesh: Mesh, name: str) -> None:
    """503 problem+json names both sides and the reason; the log of the sidecar says the same."""
    answer = ask(mesh.out, "/", Host=name)
    assert answer.status == 503 and answer.fields["content-type"] == "application/problem+json"
    assert answer.json["code"] == "upstream-handshake-failed" and answer.json["side"] == "upstream", answer
    detail = answer.json["detail"]
    assert "spiffe://mesh.example/ns/shop/sa/orders" in detail, detail
    for word in MISTAKEN[name]:
        assert word in detail, detail
    assert until(lambda: detail in mesh.orders.log)
    assert mesh.orders.records(path="/")[-1]["flags"].startswith("U")


def test_plaintext_to_a_strict_port(mesh: Mesh) -> None:
    """No answer, and the application sees nothing; through a sidecar that is told not to secure the call: 503."""
    served = mesh.app.served
    assert exchange(mesh.inside, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") == b""
    assert ask(mesh.out, "/", Host="unsecured").status == 503
    assert mesh.app.served == served


@pytest.mark.parametrize("who", ["nobody", "expired-client", "untrusted-client"])
def test_a_client_without_a_good_certificate(mesh: Mesh, certificates: Certificates, who: str) -> None:
    """It gets no octet of HTTP; the log says why in words."""
    directory = {
        "nobody": lambda: None,
        "expired-client": lambda: certificates.issue("orders", "expired-client", age_days=10),
        "untrusted-client": lambda: certificates.issue("orders", "untrusted-client", certificates.stranger),
    }[who]()
    before = mesh.payments.log
    try:
        got = exchange(mesh.inside, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", certificates.context(directory))
    except OSError:
        got = b""
    assert got == b""
    word = {"nobody": "no certificate", "expired-client": "expired", "untrusted-client": "not in our trust bundle"}[who]
    assert until(lambda: word in mesh.payments.log[len(before) :]), mesh.payments.log[len(before) :]
    assert mesh.payments.metric('sidecar_downstream_connections_handshake_failures_total{listener="inbound"}') > 0


def test_admin_pages_show_no_key(mesh: Mesh) -> None:
    """/certs says who we are and until when; neither it nor the dump holds a key."""
    certs = mesh.payments.json("/certs")
    assert any("spiffe://mesh.example/ns/shop/sa/payments" in str(each) for each in certs)
    for page in ("/certs", "/config_dump", "/clusters", "/listeners", "/stats/prometheus"):
        assert "PRIVATE KEY" not in mesh.payments.page(page)[1]


def test_permissive_takes_both_on_one_port(start: Start, app: Application, certificates: Certificates) -> None:
    """Told apart by the first bytes: a certificate is verified and named, plain text is nobody."""
    config = PAYMENTS.partition("extensions:")[0].format(identity=certificates.issue("payments"), app=app.address, mode="permissive")
    place = start(config).places["inbound"]
    context = certificates.context(certificates.issue("orders"))
    secured, plain = ask(place, "/facts", context=context), ask(place, "/facts", x_forwarded_client_cert="URI=forged")
    assert "sa/orders" in secured.body.decode() and secured.status == plain.status == 200
    assert "forwarded-client-cert" not in plain.body.decode().lower()
    with connect(place) as slow:  # even when the first bytes come one by one
        for octet in b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n":
            slow.sendall(bytes([octet]))
        assert read_all(slow).startswith(b"HTTP/1.1 200 ")


def test_disabled_takes_plain_text_only(start: Start, app: Application, certificates: Certificates) -> None:
    """No TLS there."""
    config = PAYMENTS.partition("extensions:")[0].format(identity=certificates.issue("payments"), app=app.address, mode="disabled")
    place = start(config).places["inbound"]
    assert ask(place, "/").status == 200
    with pytest.raises(OSError):
        connect(place, certificates.context(certificates.issue("orders")))


def serial(place: Place, context: ssl.SSLContext) -> bytes:
    """The certificate that is shown to a new connection."""
    with connect(place, context) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        return sock.getpeercert(binary_form=True) or b""


def test_certificates_are_replaced_without_a_restart(start: Start, app: Application, certificates: Certificates) -> None:
    """A replaced file serves new connections; an old connection goes on; a broken replacement is refused and reported while the good one serves."""
    identity = certificates.issue("payments", "rotating")
    sidecar = start(PAYMENTS.format(identity=identity, app=app.address, mode="strict"))
    place, context = sidecar.places["inbound"], certificates.context(certificates.issue("orders"))
    first = serial(place, context)
    old = Channel(place, context)
    assert old.ask("/").status == 200
    certificates.issue("payments", "rotating")
    assert until(lambda: serial(place, context) != first, 20)
    assert old.ask("/").status == 200
    second = serial(place, context)
    (identity / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
    assert until(lambda: sidecar.metric('sidecar_certificate_refusals_total{certificate="workload"}') > 0, 20)
    assert serial(place, context) == second and old.ask("/").status == 200 and ask(place, "/", context=context).status == 200
    refused = next(each for each in sidecar.json("/certs") if each["name"] == "workload")
    assert "not PEM" in refused["refusal"]
    certificates.issue("payments", "rotating")
    assert until(lambda: serial(place, context) not in (first, second), 20)
    old.close()


def test_an_early_answer_over_tls(mesh: Mesh) -> None:
    """Through both sidecars, too, the client reads 413 while it still sends."""

    def early(wire: Wire, request: Request) -> bool:
        wire.answer(b"too much", "413 Content Too Large", "Connection: close")
        return False

    mesh.app.on("/early", early)
    with connect(mesh.out) as sock:
        sock.sendall(b"POST /early HTTP/1.1\r\nHost: payments\r\nContent-Length: 8000000\r\n\r\n")
        try:
            for _ in range(80):
                sock.sendall(b"x" * 100_000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        got = read_all(sock)
    assert got.startswith(b"HTTP/1.1 413 ") and got.endswith(b"too much"), got[:500]


def test_flat_memory_through_both(mesh: Mesh) -> None:
    """64 MiB up and down through two legs of TLS leave both sidecars as small as they were."""
    piece = b"0123456789abcdef" * 16384

    def double(wire: Wire, request: Request) -> None:
        size = sum(map(len, wire.body(request)))
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            wire.send(piece)

    mesh.app.on("/double", double)
    ask(mesh.out, "/double", "POST", piece, Host="payments")
    before = [each.forget_peak() for each in (mesh.orders, mesh.payments)]
    size = 256 * len(piece)
    answer = ask(mesh.out, "/double", "POST", (piece for _ in range(256)), Host="payments", Content_Length=str(size))
    assert len(answer.body) == size
    for sidecar, then in zip((mesh.orders, mesh.payments), before, strict=True):
        assert sidecar.resident_peak() - then < 10
