"""A file of endpoints is taken whole, or refused with the place of what is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from sidecar.address import Address
from sidecar.model import Endpoint, Locality
from sidecar.naming.endpoint_file import parse
from sidecar.naming.places import at_once

FULL = Endpoint(
    address=Address.parse("10.0.0.6:8080"),
    weight=2,
    priority=1,
    locality=Locality(region="eu", zone="eu-1a"),
    metadata={"version": "1.10"},
    health="draining",
    hostname="p2",
)
PLAIN = Endpoint(address=Address.parse("10.0.0.5:8080"))
YAML = """\
# by hand
endpoints:
  - 10.0.0.5:8080
  - address: 10.0.0.6:8080
    weight: 2
    priority: 1
    locality: {region: eu, zone: eu-1a}
    metadata: {version: 1.10}
    health: draining
    hostname: p2
"""
JSON = json.dumps(
    {
        "endpoints": [
            "10.0.0.5:8080",
            {
                "address": "10.0.0.6:8080",
                "weight": 2,
                "priority": 1,
                "locality": {"region": "eu", "zone": "eu-1a"},
                "metadata": {"version": "1.10"},
                "health": "draining",
                "hostname": "p2",
            },
        ]
    }
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (YAML, (PLAIN, FULL)),
        (JSON, (PLAIN, FULL)),
        (json.dumps(json.loads(JSON), indent="\t"), (PLAIN, FULL)),
        ("\ufeff" + JSON, (PLAIN, FULL)),
        (json.dumps(json.loads(JSON)["endpoints"]), (PLAIN, FULL)),
        ("- 10.0.0.5:8080\n", (PLAIN,)),
        ("[10.0.0.5:8080]", (PLAIN,)),
        ("[]", ()),
        ("endpoints: []\n", ()),
        ("- {address: 10.0.0.5:8080, locality: null, metadata: {}}", (PLAIN,)),
        ("- &a {address: 10.0.0.5:8080, metadata: &m {v: x}}\n", (Endpoint(address=PLAIN.address, metadata={"v": "x"}),)),
        ('["unix:/run/app.sock", "[::1]:80"]', (Endpoint(address=Address(path="/run/app.sock")), Endpoint(address=Address("::1", 80)))),
    ],
)
def test_good_files(content: str, expected: tuple[Endpoint, ...]) -> None:
    """JSON and YAML, short and long entries."""
    assert at_once(parse(content.encode())) == expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "1:1: the file is empty; expected a list of endpoints"),
        ("# nothing\n", "1:1: the file is empty; expected a list of endpoints"),
        ("endpoints:\n", "1:11: expected a list of endpoints, got nothing; write [] for none"),
        ("endpoints: 10.0.0.5:80\n", "1:12: expected a list of endpoints, got '10.0.0.5:80'"),
        ("10.0.0.5:80\n", "1:1: expected a list of endpoints, got '10.0.0.5:80'"),
        ("hosts: []\n", "1:1: unknown key 'hosts'; expected endpoints"),
        ("{}", "1:1: the key 'endpoints' is missing: a list"),
        ("- 10.0.0.5\n", "1:3: expected HOST:PORT, [IPV6]:PORT or unix:/PATH, got '10.0.0.5'"),
        ("- 10.0.0.5:0\n", "1:3: nothing can be connected to at port 0"),
        ("- [a]\n", "1:3: expected an address or a mapping, got a list"),
        ("- {weight: 1}\n", "1:3: the key 'address' is missing: HOST:PORT, [IPV6]:PORT or unix:/PATH"),
        ("- {address: a:1, wieght: 1}\n", "1:18: unknown key 'wieght'; expected address, weight, priority, locality, metadata, health, hostname"),
        ("- {address: a:1, weight: -1}\n", "1:26: expected an integer from 0 to 1000000, got '-1'"),
        ("- {address: a:1, weight: 1000001}\n", "1:26: expected an integer from 0 to 1000000, got '1000001'"),
        ("- {address: a:1, priority: 129}\n", "1:28: expected an integer from 0 to 128, got '129'"),
        ("- {address: a:1, health: ill}\n", "1:26: expected one of healthy, degraded, draining, unhealthy, got 'ill'"),
        ("- {address: a:1, metadata: [x]}\n", "1:28: expected a mapping, got a list"),
        ("- {address: a:1, locality: {city: x}}\n", "1:29: unknown key 'city'; expected region, zone, sub_zone"),
        ("- {address: a:1, address: b:1}\n", "1:18: the key 'address' stands here twice"),
        ("- {address: a:1, ? [x] : 1}\n", "1:20: expected a name as key, got a list"),
        ("- a:1\n- b:1\n- a:1\n", "3:3: the address a:1 stands here twice, first in line 1"),
        ('["a:1",\n "a:1"]', "2:2: the address a:1 stands here twice, first in line 1"),
        ('{"endpoints": [{"address": "a:1", "weight": "heavy"}]}', "1:45: expected an integer from 0 to 1000000, got 'heavy'"),
        ('{\n\t"endpoints": ["a"]}', "2:16: expected HOST:PORT, [IPV6]:PORT or unix:/PATH, got 'a'"),
        ("- a:1\n- b\n- c\n- d\n- e\n- f\n- g\n- h\n", None),
        ("- *nobody\n", "1:3: there is no anchor 'nobody' before this"),
        ("- {a\n", None),
        ("[" * 20 + "]" * 20, "1:9: nested more than 8 deep"),
        ("a: \x07", None),
    ],
)  # fmt: skip
def test_broken_files(content: str, problem: str | None) -> None:
    """Line and column stand before each sentence."""
    with pytest.raises(ValueError, match=r"^\d+:\d+: ") as caught:
        at_once(parse(content.encode()))
    if problem is not None:
        assert str(caught.value) == problem


def test_many_problems_are_counted() -> None:
    """The first five are told, the rest counted."""
    with pytest.raises(ValueError, match=r"; and 3 more$") as caught:
        at_once(parse(b"".join(b"- x%d\n" % n for n in range(8))))
    assert str(caught.value).count("expected") == 5


def test_wrong_encoding() -> None:
    """The place of the first octet that is no UTF-8."""
    with pytest.raises(ValueError, match=r"^2:3: expected UTF-8 text"):
        at_once(parse(b"- a:1\n- \xff"))


@given(st.binary(max_size=60) | st.text(alphabet='-:[]{}"a1,.&*\n \t#', max_size=40).map(str.encode))
def test_any_content_is_taken_or_refused(content: bytes) -> None:
    """Nothing but a `ValueError` with a place comes out of arbitrary octets."""
    try:
        at_once(parse(content))
    except ValueError as error:
        assert str(error).split(":")[0].isdigit(), error


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_ten_thousand_endpoints_in_short_steps(form: str) -> None:
    """The event loop turns between steps of at most 250; how long one takes stands in docs/discovery.md."""
    entries = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:8080" for n in range(10_000)]
    content = json.dumps({"endpoints": [{"address": each, "weight": 3, "metadata": {"v": "1"}} for each in entries]})
    if form == "yaml":
        content = "endpoints:\n" + "".join(f"  - {{address: {each}, weight: 3, metadata: {{v: 1}}}}\n" for each in entries)
    steps = parse(content.encode())
    count = 0
    try:
        while True:
            next(steps)
            count += 1
    except StopIteration as end:
        assert len(end.value) == 10_000
    assert count >= 40
