"""What a plugin knows, and what is said of it."""

from __future__ import annotations

from sidecar.address import Address
from sidecar.discovery.findings import COMPARED_AT_ONCE, Findings
from sidecar.model import Endpoint
from sidecar.testing import STARTED, FakeContext
from tests.discovery.watching import Told

ONE, TWO = (Endpoint(address=Address("10.0.0.1", port)) for port in (1, 2))


def test_failures_change_nothing() -> None:
    """The last good answer stays, its time and the newest reason are told."""
    context = FakeContext()
    findings, told = Findings("there", context.clock, context.log), Told()
    first: list[None] = []
    findings.begin(told).addCallback(first.append)
    findings.failed("away")
    assert (told.sets, first) == ([], [])
    context.clock.advance(5)
    findings.found([ONE])
    context.clock.advance(5)
    findings.failed("away again")
    assert (told.sets, first) == ([["10.0.0.1:1"]], [None])
    assert findings.snapshot() == {"source": "there", "last_success": STARTED + 5, "last_error": "away again", "failures": 2}
    findings.found([ONE])
    findings.found([TWO], "one could not be used")
    assert told.sets == [["10.0.0.1:1"], ["10.0.0.1:2"]]
    assert findings.snapshot()["last_error"] == "one could not be used"
    findings.confirmed()
    assert findings.snapshot()["last_error"] == ""


def test_servers_words_do_nothing_to_a_terminal(caught_logs: list[str]) -> None:
    """Neither lines of their own nor escape sequences come out of an answer; letters of all languages do."""
    context = FakeContext()
    findings = Findings("there", context.clock, context.log)
    findings.begin(Told())
    findings.failed("status 500: nö\n[sidecar#info] ready\x1b[2J\x9b\u202e")
    sentence = "status 500: nö\ufffd[sidecar#info] ready\ufffd[2J\ufffd\ufffd"
    assert findings.snapshot()["last_error"] == sentence
    assert caught_logs[-1] == f"there: {sentence}"


def test_after_stop_nobody_is_told() -> None:
    """And who waits for the first answer need not any more."""
    context = FakeContext()
    findings, told = Findings("there", context.clock, context.log), Told()
    first: list[None] = []
    findings.begin(told).addCallback(first.append)
    assert findings.is_watching
    findings.stop()
    findings.found([ONE])
    findings.failed("late")
    assert (told.sets, first, findings.is_watching, findings.failures) == ([], [None], False, 0)


def many(last: int) -> list[Endpoint]:
    """More than are compared at once; `last`: the port of the last one."""
    return [Endpoint(address=Address(f"10.0.{number >> 8}.{number & 255}", 1)) for number in range(5 * COMPARED_AT_ONCE)] + [
        Endpoint(address=Address("10.1.0.0", last))
    ]


def test_many_are_compared_in_steps() -> None:
    """The cluster is told when they are found to differ; of several sets that come meanwhile the last one counts; after the stop nobody is told."""
    context = FakeContext()
    findings, told = Findings("there", context.clock, context.log), Told()
    findings.begin(told)
    findings.found(many(1))
    findings.found(many(1))
    context.clock.advance(0)
    assert len(told.sets) == 1
    findings.found(many(2))
    assert len(told.sets) == 1, "not within the call"
    findings.found(many(3))
    context.clock.advance(0)
    assert [each[-1] for each in told.sets] == ["10.1.0.0:1", "10.1.0.0:3"]
    findings.found(many(4))
    findings.stop()
    context.clock.advance(0)
    assert len(told.sets) == 2 and not context.clock.getDelayedCalls()
