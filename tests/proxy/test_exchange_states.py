"""Anything in any order, with everything switched on: plugins that answer, wait, raise or talk nonsense in every hook, retries and attempts beside one another,
copies, a circuit, and both sides of each pairing going wrong between any two events.

Whatever happens, each exchange ends once and is recorded once, every gauge is back at zero, nobody's octets reach anybody else, what may have been carried out
is not sent again, and the connection serves the next request or is closed.
"""

from __future__ import annotations

from hypothesis import event, given, settings, strategies as st

from sidecar.model import Hedge
from tests.proxy.courses import METHODS, MODES, MOODS, Course, Switches, Wild
from tests.proxy.test_pairings import PAIRINGS

STEPS = st.one_of(
    st.tuples(
        st.just("client"),
        st.sampled_from(["begin", "data", "data", "data", "end", "end", "reset", "half_close", "stop_reading", "read_on"]),
        st.integers(0, 5),
    ),
    st.tuples(st.just("network"), st.sampled_from(["connect", "connect", "connect", "refuse"]), st.integers(0, 5)),
    st.tuples(
        st.just("server"),
        st.sampled_from(
            ["head", "head", "head", "data", "data", "end", "end", "whole", "error", "switch", "informational", "reset", "refuse", "lose", "stop reading",
             "block", "read on", "nonsense", "end side", "leave"]
        ),
        st.integers(0, 11),
    ),
    st.tuples(st.just("plugin"), st.just("fire"), st.integers(0, 23)),
    st.tuples(st.just("time"), st.just(""), st.integers(0, 7)),
    st.tuples(st.just("drain"), st.just(""), st.just(0)),
)  # fmt: skip
MOOD_LISTS = st.lists(st.one_of(st.just("nothing"), st.just("later"), st.sampled_from(["nothing", *MOODS, "raise", "exit"])), max_size=8)
PLUGINS = st.lists(st.tuples(st.sampled_from(sorted(MODES)), MOOD_LISTS), max_size=2)
HEDGES = st.sampled_from([None, None, Hedge(delay=0.5), Hedge(hedge_on_per_try_timeout=True)])


SWITCHES = st.builds(Switches, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([True, True, False]), st.booleans(), st.booleans())


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PAIRINGS), PLUGINS, HEDGES, SWITCHES, st.lists(STEPS, min_size=4, max_size=40))
def test_any_course(
    pairing: tuple[str, str], plugins: list[tuple[str, list[str]]], hedge: Hedge | None, switches: Switches, course: list[tuple[str, str, int]]
) -> None:
    """See the file."""
    world = run(pairing, plugins, hedge, switches, course)
    event(f"{len(world.exchanges)} exchanges, {sum(map(world.begun, range(world.requests)))} deliveries")


def run(
    pairing: tuple[str, str], plugins: list[tuple[str, list[str]]], hedge: Hedge | None, switches: Switches, course: list[tuple[str, str, int]]
) -> Course:
    """One course, to its end."""
    wild = [Wild(mode, list(moods)) for mode, moods in plugins]
    world = Course(pairing, wild, hedge, switches)
    world.step("client", "begin", 0)
    for who, what, which in course:
        world.step(who, what, which)
    for number in range(world.requests if switches.clients_leave else 0):
        world.clients.reset(number)
        world.look()
    # Nobody does anything any more: limits of time end what is left.
    for _ in range(140):
        if all(each.finished for each in world.exchanges) and not world.stats.active:
            break
        world.clock.advance(5.0)
        world.look()
    world.nothing_is_left()
    for number in range(len(world.exchanges)):
        if METHODS[number % 5] == b"POST":
            assert world.begun(number) <= 1, (number, world.records)
    for plugin in wild:
        plugin.moods.clear()
    for number in range(world.requests):
        world.clients.read_on(number)
        head, body = world.clients.answer(number)
        if head is not None and head.status in (101, 200):
            assert set(body) <= {97 + number}, body
    world.look()
    world.clients.serves_on(world)
    world.nothing_is_left()
    return world


PEACEFUL = st.one_of(
    st.tuples(st.just("client"), st.sampled_from(["begin", "data", "data", "data", "stop_reading", "read_on", "end"]), st.integers(0, 9)),
    st.tuples(st.just("server"), st.sampled_from(["head", "data", "data", "informational", "stop reading", "block", "read on"]), st.integers(0, 11)),
    st.tuples(st.just("plugin"), st.just("fire"), st.sampled_from([0, 8])),
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(PAIRINGS),
    st.lists(st.tuples(st.sampled_from(sorted(MODES)), st.lists(st.sampled_from(["nothing", "later", "soon"]), max_size=12)), min_size=1, max_size=2),
    SWITCHES,
    st.sampled_from([12, 40_000]),
    st.lists(PEACEFUL, min_size=4, max_size=40),
)
def test_what_goes_well_arrives(
    pairing: tuple[str, str], plugins: list[tuple[str, list[str]]], switches: Switches, size: int, course: list[tuple[str, str, int]]
) -> None:
    """Nobody fails, and everybody reads in the end: whoever stopped whom before, all octets arrive at both ends and each answer is whole."""
    arrives(pairing, plugins, switches, size, course)


def arrives(pairing: tuple[str, str], plugins: list[tuple[str, list[str]]], switches: Switches, size: int, course: list[tuple[str, str, int]]) -> Course:
    """One peaceful course, to its end."""
    wild = [Wild(mode, list(moods)) for mode, moods in plugins]
    world = Course(pairing, wild, None, switches._replace(is_tight=False, connects=True), size)
    # Who changes something has to be waited for: no tunnels, and no call, whose messages would be counted.
    world.kinds = 3
    world.step("client", "begin", 0)
    for who, what, which in course:
        world.step(who, what, which)
    for plugin in wild:
        plugin.moods.clear()
    for _ in range(200):
        for plugin in wild:
            while plugin.waiting:
                plugin.fire(0)
        for number in range(world.requests):
            world.clients.end(number)
            world.clients.read_on(number)
        world.finish_answers()
        if all(each.finished for each in world.exchanges) and not world.stats.active:
            break
    for number in range(world.requests):
        world.clients.read_on(number)
    world.look()
    assert [each.status for each in world.records] == [200] * world.requests, world.records
    for number in range(world.requests):
        head, body = world.clients.answer(number)
        assert head is not None and len(body) == world.said[number], (number, head, len(body), world.said)
        assert world.got[number] == world.clients.sent.get(number, 0), (number, world.got, world.clients.sent)
    world.nothing_is_left()
    world.clients.serves_on(world)
    return world
