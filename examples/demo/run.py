"""`make demo`: two applications behind two sidecars, a third one that may not call, and what happens to real requests between them.

With ONCE=1 in the environment it ends when everything was shown, with status 1 if anything was not as promised; else it stays up until Ctrl-C.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from types import FrameType
from typing import TypeVar

from mesh import DemoFailed, Mesh

WORK_DIRECTORY = Path(os.environ.get("DEMO_DIR") or Path(__file__).resolve().parents[2] / ".demo")
KEY = "demo-key-of-alice"
ORDERS_ID = "spiffe://demo.example/ns/shop/sa/orders"
PAYMENTS_ID = "spiffe://demo.example/ns/shop/sa/payments"
INTRUDER_ID = "spiffe://demo.example/ns/shop/sa/intruder"
BURST = 5  # what payments.yaml lets through at once
LOG_SECONDS = 5.0  # access logs are written in batches, at least once a second
Answer = tuple[int, dict[str, str], str]
T = TypeVar("T")


class Story:
    """What is told, and what of it was not as promised."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.broken: list[str] = []
        self._scene = ""

    def scene(self, title: str) -> None:
        """Begin a new part."""
        self._scene = title
        print(f"\n{title}")

    def promise(self, sentence: str, is_kept: bool, instead: object = "") -> None:
        """Tell whether `sentence` holds; `instead`: what was seen."""
        print(f"   {'ok ' if is_kept else 'NOT'} {sentence}")
        if not is_kept:
            print(f"       instead: {instead}")
            self.broken.append(f"{self._scene.partition(':')[0]}: {sentence} (instead: {str(instead)[:200]})")

    def get(self, port: str, path: str, show: bool = True, **headers: str) -> Answer:
        """(status, headers, body) of one request to `port`, by its name; shown as the curl command that does the same."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if show:
            options = "".join(f" -H '{name}: {value}'" for name, value in fields.items())
            print(f"   $ curl{options} http://127.0.0.1:{self.mesh.ports[port]}{path}")
        connection = HTTPConnection("127.0.0.1", self.mesh.ports[port], timeout=10)
        try:
            connection.request("GET", path, headers=fields)
            response = connection.getresponse()
            answer = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read().decode()
        except OSError as error:
            answer = 0, {}, f"no answer: {error or type(error).__name__}"
        finally:
            connection.close()
        if show:
            print(f"     {answer[0] or ''} {_essence(answer[2])}".rstrip())
        return answer


def _essence(body: str) -> str:
    """What a person wants to see of a body: of problem+json its code and sentence."""
    try:
        value = json.loads(body)
    except ValueError:
        return body[:300]
    if isinstance(value, dict) and "detail" in value:
        return f"{value['code']} ({value['side']}): {value['detail']}"
    return body[:300]


def _json(body: str) -> dict[str, object]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def tell(story: Story) -> None:
    """All parts, in order."""
    trace_id = allowed(story)
    refused_by_plugin(story)
    refused_by_identity(story)
    limited(story)
    traced(story, trace_id)


def allowed(story: Story) -> str:
    """One request all the way through and back; the id of its trace."""
    story.scene("1. Allowed: curl -> orders' sidecar -> orders -> orders' sidecar = mutual TLS => payments' sidecar -> payments")
    trace_id = secrets.token_hex(16)
    status, _, body = story.get("ORDERS_INBOUND", "/orders/42", x_api_key=KEY, traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-01")
    payment = _json(body).get("payment")
    payment = payment if isinstance(payment, dict) else {}
    story.promise("the order comes back with its charge", status == 200 and payment.get("charge") == "42", f"{status} {body}")
    story.promise("payments was told, by its sidecar, that the caller is orders", payment.get("caller") == ORDERS_ID, payment.get("caller"))
    story.promise("a plugin masked the card number on its way out of payments", payment.get("card") == "************1111", payment.get("card"))
    answerers = {str(payment.get("answered_by"))}
    for number in range(43, 47):
        payment = _json(story.get("ORDERS_INBOUND", f"/orders/{number}", show=False, x_api_key=KEY)[2]).get("payment")
        answerers.add(str(payment.get("answered_by")) if isinstance(payment, dict) else "nobody")
    if story.mesh.node:
        story.promise(f"behind payments' sidecar two processes take turns: {', '.join(sorted(answerers))}", len(answerers) == 2, answerers)
    return trace_id


def refused_by_plugin(story: Story) -> None:
    """No key, and a wrong one."""
    story.scene("2. Refused by a custom plugin: the API-key authenticator of examples/plugins, in orders' sidecar")
    before = _asked(story)
    status, _, body = story.get("ORDERS_INBOUND", "/orders/42")
    is_refused = status == 401 and _json(body).get("code") == "unauthenticated"
    story.promise("without a key: 401, and orders itself saw nothing", is_refused and _asked(story) == before, f"{status} {body}")
    status, _, body = story.get("ORDERS_INBOUND", "/orders/42", x_api_key="guess")
    story.promise("with a wrong key: 401", status == 401 and "not known" in body, f"{status} {body}")


def _asked(story: Story) -> int:
    """How many requests orders' sidecar has passed on to orders, by its admin page."""
    clusters = json.loads(story.get("ORDERS_ADMIN", "/clusters", show=False)[2])
    return sum(int(each["requests"]) for each in clusters if each["name"] == "app")


def refused_by_identity(story: Story) -> None:
    """A good certificate of the wrong service, and none at all."""
    story.scene("3. Refused by identity: the intruder has a certificate of the same authority, but payments' rules name only orders")
    status, _, body = story.get("INTRUDER_OUTBOUND", "/charges/42", Host="payments")
    story.promise("403, with the name that the intruder's certificate shows", status == 403 and INTRUDER_ID in body, f"{status} {body}")
    status, _, body = story.get("ORDERS_OUTBOUND", "/charges/42", Host="payments")
    story.promise("the same request through orders' sidecar: 200", status == 200, f"{status} {body}")
    status, _, body = story.get("PAYMENTS_INBOUND", "/charges/42")
    story.promise("without any certificate, straight to payments' sidecar: no answer at all", status == 0, f"{status} {body}")


def limited(story: Story) -> None:
    """More than payments' rate limit lets through."""
    story.scene(f"4. Rate-limited: payments' sidecar lets {BURST} requests for one charge through at once")
    answers = [story.get("ORDERS_OUTBOUND", "/charges/7", show=number == 0, Host="payments") for number in range(BURST + 2)]
    statuses = [status for status, _, _ in answers]
    print(f"     ... {BURST + 2} times: {' '.join(map(str, statuses))}; the last one: {_essence(answers[-1][2])}")
    story.promise(f"{BURST} times 200, then 429", statuses == [200] * BURST + [429, 429], statuses)
    story.promise("the refusal says when to come again (retry-after)", "retry-after" in answers[-1][1], answers[-1][1])


def traced(story: Story, trace_id: str) -> None:
    """The first request again, as both sidecars recorded it."""
    story.scene(f"5. One trace through both sidecars: {trace_id}, the first request's")
    directory = story.mesh.directory
    want = [("orders", "inbound"), ("orders", "outbound"), ("payments", "inbound")]
    records = _wait_for(lambda: _records(directory, trace_id), len(want))
    for who, record in records:
        caller = f" from {record['principal']}" if record["principal"] else ""
        print(f"     {who:8} {record['direction']:8} {record['method']} {record['path']} {record['status']} in {record['duration_ms']:.1f} ms{caller}")
    seen = sorted((who, str(record["direction"])) for who, record in records)
    story.promise("access records: in at orders, out at orders, in at payments", seen == sorted(want), seen)
    out = next((record for who, record in records if (who, record["direction"]) == want[1]), {})
    story.promise("orders' sidecar verified that payments answered", out.get("upstream_identity") == PAYMENTS_ID, out.get("upstream_identity"))
    spans = _wait_for(lambda: _spans(directory, trace_id), 6)
    linked = {str(span["span_id"]) for span in spans}
    roots = [span for span in spans if span["parent_span_id"] not in linked]
    is_tree = len(spans) == 6 and len(roots) == 1
    story.promise("six spans (a server's and a client's for each record), linked to one tree", is_tree, f"{len(spans)} spans, {len(roots)} roots")


def _lines(file: Path) -> Iterator[dict[str, object]]:
    if file.exists():
        yield from (json.loads(line) for line in file.read_text().splitlines() if line.endswith("}"))


def _records(directory: Path, trace_id: str) -> list[tuple[str, dict[str, object]]]:
    found = [(who, record) for who in ("orders", "payments") for record in _lines(directory / who / "access.log") if record["trace_id"] == trace_id]
    return sorted(found, key=lambda each: str(each[1]["time"]))


def _spans(directory: Path, trace_id: str) -> list[dict[str, object]]:
    return [span for who in ("orders", "payments") for span in _lines(directory / who / "spans.log") if span["trace_id"] == trace_id]


def _wait_for(look: Callable[[], list[T]], count: int) -> list[T]:
    deadline = time.monotonic() + LOG_SECONDS
    while len(found := look()) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def map_of(mesh: Mesh) -> str:
    """Where everything is."""
    port = mesh.ports
    into_payments = f"{port['PAYMENTS_INBOUND']} [payments' sidecar]"
    second = "payments (Node)" if mesh.node else "payments (Python)"
    return f"""
   all on 127.0.0.1:

   you, with a key -> {port["ORDERS_INBOUND"]} [orders' sidecar] -> {port["ORDERS_APP"]} orders
                                                   |
                                                   v
                      {port["ORDERS_OUTBOUND"]} [orders' sidecar] === mutual TLS ==> {into_payments} -> {port["PAYMENTS_APP"]} payments (Python)
   somebody else   -> {port["INTRUDER_OUTBOUND"]} [intruder's sidecar] = mutual TLS ==^                         -> {port["PAYMENTS_APP_2"]} {second}"""


def by_hand(mesh: Mesh) -> str:
    """What a newcomer may try next."""
    port = mesh.ports
    directory = os.path.relpath(mesh.directory)
    command = os.path.relpath(Path(sys.executable).with_name("sidecar"))
    return f"""
To try by hand:
   curl -H 'x-api-key: {KEY}' http://127.0.0.1:{port["ORDERS_INBOUND"]}/orders/1     through everything
   curl http://127.0.0.1:{port["ORDERS_OUTBOUND"]}/charges/1 -H 'Host: payments'               as the orders application does
   curl http://127.0.0.1:{port["INTRUDER_OUTBOUND"]}/charges/1 -H 'Host: payments'               as the intruder
   curl http://127.0.0.1:{port["PAYMENTS_APP"]}/charges/1                                   past the sidecar: with the card number, without a caller
Admin pages, of orders, payments and the intruder:
   {_admin(mesh, "/stats/prometheus")}     numbers for Prometheus
   {_admin(mesh, "/config_dump")}          the configuration in use
   {_admin(mesh, "/clusters")}             endpoints and their connections
   {_admin(mesh, "/healthz/ready")}        ready or not
Files:
   {directory}/orders/access.log, {directory}/payments/access.log, spans.log beside them, *.out: what each process says
   examples/demo/*.yaml: the whole configuration; {directory}/certs: the identities (`{command} ca show {directory}/certs/orders`)"""


def _admin(mesh: Mesh, page: str) -> str:
    ports = ",".join(str(mesh.ports[f"{who}_ADMIN"]) for who in ("ORDERS", "PAYMENTS", "INTRUDER"))
    return f"curl 'http://127.0.0.1:{{{ports}}}{page}'"


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """The demo; its exit status."""
    signal.signal(signal.SIGTERM, _terminated)
    once = os.environ.get("ONCE", "") not in ("", "0")
    began = time.monotonic()
    print("starting three processes of two applications, and three sidecars ...", flush=True)
    try:
        with Mesh(WORK_DIRECTORY) as mesh:
            print(f"... up after {time.monotonic() - began:.1f} s\n{map_of(mesh)}")
            story = Story(mesh)
            tell(story)
            mesh.check()
            print(by_hand(mesh) if not once else "")
            if story.broken:
                print(f"NOT AS PROMISED, {len(story.broken)} times:\n" + "\n".join(f" - {each}" for each in story.broken))
            else:
                print("All as promised." if once else "\nAll as promised. Ctrl-C ends it.", flush=True)
            while not once:
                time.sleep(0.5)
                mesh.check()
            return 1 if story.broken else 0
    except KeyboardInterrupt:
        print("\nended; nothing of it runs any more")
        return 0
    except DemoFailed as error:
        print(f"\nthe demo cannot run: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
