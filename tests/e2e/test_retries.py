"""Attempts with real processes: a slow endpoint gets company, a broken one is passed over, what is not safe is delivered once, and the record tells it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.e2e.applications import Application, Request, Wire
from tests.e2e.clients import ask
from tests.e2e.conftest import Start
from tests.e2e.processes import SidecarProcess


class Pair:
    """Two endpoints behind one sidecar: `bad` never answers /slow, cuts /cut and answers /busy with 503; `good` answers all. Counts deliveries by path."""

    def __init__(self, start: Start, settings: str) -> None:
        self.apps = [Application(), Application()]
        self.never = threading.Event()
        self.delivered: list[tuple[str, str]] = []
        self.told: list[list[str]] = []
        bad, good = self.apps
        for path, behaviour in (("/slow", self._slow), ("/cut", self._cut), ("/busy", self._busy)):
            bad.on(path, behaviour)
            good.on(path, self._good)
        endpoints = ", ".join(each.address for each in self.apps)
        self.sidecar: SidecarProcess = start(
            f"service: orders\naccess_log: access.log\noutbound:\n  listen: 127.0.0.1:0\n  services:\n"
            f"    payments: {{mtls: false, endpoints: [{endpoints}], timeout: 8s, {settings}}}\nadmin: 127.0.0.1:0\n"
        )
        self.place = self.sidecar.places["outbound"]

    def _seen(self, who: str, wire: Wire, request: Request) -> None:
        for _ in wire.body(request):
            pass
        self.delivered.append((who, request.path))
        self.told.append(request.values("x-envoy-expected-rq-timeout-ms"))

    def _slow(self, wire: Wire, request: Request) -> object:
        self._seen("bad", wire, request)
        self.never.wait(20)
        return False

    def _cut(self, wire: Wire, request: Request) -> object:
        self._seen("bad", wire, request)
        wire.cut()
        return False

    def _busy(self, wire: Wire, request: Request) -> object:
        self._seen("bad", wire, request)
        wire.answer(b"", "503 Service Unavailable", "Retry-After: 0")
        return True

    def _good(self, wire: Wire, request: Request) -> object:
        self._seen("good", wire, request)
        wire.answer(b"ok")
        return True

    def stop(self) -> None:
        self.never.set()
        for each in self.apps:
            each.stop()


@pytest.fixture
def pair(start: Start, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(start, request.param)
    yield made
    made.stop()


@pytest.mark.parametrize("pair", ["retry: {attempts: 3}, hedge: {delay: 100ms}"], indirect=True)
def test_hedging(pair: Pair) -> None:
    """Each request is answered, whichever endpoint it went to first; the slow attempts are reset, and no connection is left with them."""
    for _ in range(6):
        assert ask(pair.place, "/slow", Host="payments").status == 200
    records = pair.sidecar.records(count=6)
    assert 2 in {each["attempts"] for each in records} <= {1, 2}
    for each in records:
        assert [attempt["outcome"] for attempt in each["tries"]] == ([] if each["attempts"] == 1 else ["given up", "status 200"])
    (cluster,) = [each for each in pair.sidecar.json("/clusters") if each["name"] == "payments"]
    assert cluster["hedges"] == cluster["hedges_won"] == len([each for each in records if each["attempts"] == 2])
    assert cluster["connections"] <= 1 and all(each["active_requests"] == 0 for each in cluster["endpoints"])
    assert pair.sidecar.metric('sidecar_upstream_hedges_total{cluster="payments"}') == cluster["hedges"]


@pytest.mark.parametrize("pair", ["retry: {attempts: 3}"], indirect=True)
@pytest.mark.parametrize("path", ["/cut", "/busy"])
def test_retries(pair: Pair, path: str) -> None:
    """GETs are answered. Each POST reaches one application once, whatever becomes of it there; one with a key is answered as well."""
    for _ in range(4):
        assert ask(pair.place, path, Host="payments").status == 200
    assert all(told and 0 < int(told[0]) <= 8000 for told in pair.told)
    pair.delivered.clear()
    statuses = [ask(pair.place, path, "POST", body=b"pay", Host="payments").status for _ in range(4)]
    assert len(pair.delivered) == 4 and sorted(set(statuses)) == [200, 503]
    assert statuses.count(503) == len([who for who, _ in pair.delivered if who == "bad"])
    keyed = [ask(pair.place, path, "POST", body=b"pay", Host="payments", **{"Idempotency-Key": "1"}).status for _ in range(4)]
    assert keyed == [200] * 4


@pytest.mark.parametrize("pair", ["retry: {attempts: 2, per_try_timeout: 200ms}"], indirect=True)
def test_time_for_one_attempt(pair: Pair) -> None:
    """The endpoint that does not answer is left for the other one; a POST is not sent again, and gets 504 with its flag."""
    for _ in range(3):
        assert ask(pair.place, "/slow", Host="payments").status == 200
    statuses = {ask(pair.place, "/slow", "POST", body=b"pay", Host="payments").status for _ in range(2)}
    assert statuses == {200, 504}
    late = [each for each in pair.sidecar.records(count=5) if each["status"] == 504]
    assert [(each["flags"], each["code"]) for each in late] == [("UT", "upstream-timeout")]
    assert all("may have been carried out" in str(each["notes"]) for each in late)
