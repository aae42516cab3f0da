"""The application behind one of two sidecars is gone: what the sidecar there says of it lets also a POST go to the other one."""

from __future__ import annotations

from collections import Counter

from tests.e2e.applications import Application, Request, Wire
from tests.e2e.clients import ask
from tests.e2e.conftest import Certificates, Start
from tests.e2e.test_mutual_tls import at

PAYMENTS = """
service: payments
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{identity}"}}
inbound: {{listen: "127.0.0.1:0", app: "{app}"}}
access_log: access.log
admin: "127.0.0.1:0"
"""
ORDERS = """
service: orders
namespace: shop
trust_domain: mesh.example
identity: {{directory: "{identity}"}}
outbound:
  listen: "127.0.0.1:0"
  services:
    payments: {{endpoints: ["{first}", "{second}"], retry: {{}}}}
    impatient: {{endpoints: ["{first}"], identity: "spiffe://mesh.example/ns/shop/sa/payments"}}
access_log: access.log
admin: "127.0.0.1:0"
"""


def test_posts_go_to_the_other_application(start: Start, certificates: Certificates) -> None:
    """None fails and each is delivered once; who cannot go elsewhere is told why, and not the secret by which sidecars believe each other."""
    delivered: Counter[str] = Counter()

    def deliver(wire: Wire, request: Request) -> None:
        delivered[b"".join(wire.body(request)).decode()] += 1
        wire.answer(b"done")

    apps = [Application(), Application()]
    try:
        for app in apps:
            app.on("/charge", deliver)
        identity = certificates.issue("payments")
        inside = [start(PAYMENTS.format(identity=identity, app=app.address), name=f"payments{index}") for index, app in enumerate(apps)]
        places = [at(each.places["inbound"]) for each in inside]
        orders = start(ORDERS.format(identity=certificates.issue("orders"), first=places[0], second=places[1]), name="orders")
        out = orders.places["outbound"]
        before = [ask(out, "/charge", "POST", f"before {number}".encode(), Host="payments").status for number in range(10)]
        assert before == [200] * 10 and apps[0].served and apps[1].served
        apps[0].stop()
        served = apps[0].served
        after = [ask(out, "/charge", "POST", f"after {number}".encode(), Host="payments") for number in range(20)]
        assert [each.status for each in after] == [200] * 20 and apps[0].served == served
        assert set(delivered.values()) == {1} and len(delivered) == 30
        retried = [row for row in orders.records(path="/charge", count=30) if row["attempts"] == 2]
        assert retried and all(row["tries"][0]["outcome"] == "upstream-undelivered" for row in retried)
        assert any(row["code"] == "connect-failed" for row in inside[0].records(path="/charge"))
        refused = ask(out, "/charge", "POST", b"x", Host="impatient")
        assert refused.status == 503 and refused.json["code"] == "connect-failed" and "x-sidecar-undelivered" not in refused.fields
    finally:
        for app in apps:
            app.stop()
