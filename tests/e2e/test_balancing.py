"""The example of docs/balancing.md as processes: nearest first, by weight, the canary's route, and what happens when an endpoint dies and comes back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.applications import Application, Request, Wire
from tests.e2e.clients import ask
from tests.e2e.conftest import Start
from tests.e2e.processes import SidecarProcess, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "config" / "balancing.yaml"
ROUNDS = 40


def says(number: int, port: int = 0) -> Application:
    """An application that answers with its number."""
    app = Application(port=port)

    def answer(wire: Wire, request: Request) -> None:
        wire.answer(str(number).encode())

    app.on("/", answer)
    app.on("/canary", answer)
    return app


@pytest.fixture
def apps() -> Iterator[list[Application]]:
    """Four of them, in the order of the example."""
    made = [says(number) for number in range(4)]
    yield made
    for each in made:
        each.stop()


@pytest.fixture
def sidecar(apps: list[Application], start: Start) -> SidecarProcess:
    """The example at ports that are free, with short times and with retries."""
    text = EXAMPLE.read_text()
    for number, app in enumerate(apps):
        text = text.replace(f"127.0.0.1:{18081 + number}", app.address)
    text = re.sub(r"127\.0\.0\.1:1500[01]", "127.0.0.1:0", text)
    text = text.replace("base_ejection_time: 5s", "base_ejection_time: 500ms, interval: 100ms").replace("slow_start_window: 30s", "slow_start_window: 1s")
    text = text.replace("- {cluster: payments}", "- {cluster: payments, retry: {attempts: 3}}")
    return start(text).wait_ready()


def shares(sidecar: SidecarProcess, path: str = "/") -> dict[int, int]:
    """How many of `ROUNDS` requests each application answers; all must be answered with 200."""
    answers = [ask(sidecar.places["outbound"], path) for _ in range(ROUNDS)]
    assert {answer.status for answer in answers} == {200}
    return dict(Counter(int(answer.body) for answer in answers))


def test_nearest_first_and_back_again(sidecar: SidecarProcess, apps: list[Application]) -> None:
    """The own zone by weight; when one of it dies nobody notices and the next zone helps out; when it is there again it gets its share again."""
    assert shares(sidecar) == {0: 30, 1: 10}
    assert shares(sidecar, "/canary") == {2: ROUNDS}
    port = int(apps[1].address.rpartition(":")[2])
    apps[1].stop()

    def first() -> dict[str, object]:
        shares(sidecar)
        [cluster] = sidecar.json("/clusters")
        found: dict[str, object] = cluster["endpoints"][1]
        return found if not found["healthy"] else {}

    ejected = until(first)
    assert ejected["outlier"] != "ok" and ejected["ejections"]
    found = shares(sidecar)
    assert 1 not in found and set(found) == {0, 2}
    apps.append(says(1, port))
    assert until(lambda: shares(sidecar) == {0: 30, 1: 10})
    assert sidecar.metric(f'sidecar_endpoint_healthy{{cluster="payments",endpoint="{apps[1].address}"}}') == 1
    assert sidecar.metric('sidecar_upstream_ejections_total{cluster="payments"}') >= 1
