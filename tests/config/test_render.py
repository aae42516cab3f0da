"""A configuration written out again: whatever the model, loading what was written gives it back, and no secret leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sidecar.address import Address
from sidecar.config.load import load
from sidecar.config.render import dump, plain, to_yaml
from sidecar.model import (
    Admin,
    Certificate,
    ChainMatch,
    Cluster,
    Config,
    DirectResponse,
    DownstreamTLS,
    Endpoint,
    FilterChain,
    HeaderOps,
    HTTPLimits,
    HTTPManager,
    Listener,
    Node,
    PluginRef,
    PoolLimits,
    Redirect,
    Rewrite,
    Route,
    RouteMatch,
    RouteTable,
    TCPProxy,
    Tracing,
    UpstreamTLS,
    ValueMatch,
    VirtualHost,
    WeightedCluster,
)

CLUSTERS, CERTIFICATES = ("app", "off", "1", "a: b"), ("workload", "${CERT}", "no")

# Text that YAML, its two versions, and our own variables could each take for something else.
AWKWARD = [
    "",
    "~",
    "null",
    "true",
    "off",
    "yes",
    "1",
    "1.5",
    "1e3",
    "0x1",
    "017",
    "1:30",
    "<<",
    "-",
    "- a",
    "a: b",
    "# a",
    " a ",
    "a\nb",
    "${A}",
    "$${A}",
    "$$${",
    "'",
    '"',
    "\\",
    "\x7f",
    "\u2028",
    "\ufeff",
    "é",
    "😀",
    "2001-01-01",
    "=",
    "{",
    "[",
    "*a",
    "&a",
    "!a",
    "%a",
    "@a",
    "`",
    "|",
    ">",
]
texts = st.text(max_size=12) | st.sampled_from(AWKWARD)
texts = texts.filter(lambda text: not any(0xD800 <= ord(each) < 0xE000 for each in text))
durations = st.floats(0, 1e6) | st.integers(0, 10**7).map(lambda number: number / 1000)
sizes = st.integers(1024, 2**40)
values = st.from_regex(r"[!-~]([ -~]{0,8}[!-~])?", fullmatch=True)
field_names = st.sampled_from(["x-a", "X-B", "on", "1"])
paths = st.sampled_from(["/", "/a", "/a/b", "/${A}", "/é"])
hosts = st.sampled_from(["a.example", "10.0.0.1", "a"])
addresses = st.builds(Address, host=st.sampled_from(["127.0.0.1", "::1"]), port=st.just(0)) | st.builds(Address, path=st.sampled_from(["/run/a b", "@x"]))
targets = st.builds(Address, host=hosts, port=st.integers(1, 65535))
clusters, certificates = st.sampled_from(CLUSTERS), st.sampled_from(CERTIFICATES)


def tuples(items: st.SearchStrategy[Any], **size: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, **{"max_size": 2, **size}).map(tuple)


def some(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | items


def ref(kind: str, name: str, config: dict[str, Any] | None = None) -> PluginRef:
    return PluginRef(kind=kind, name=name, config=config or {})


filters = st.sampled_from([ref("authenticator", "mtls"), ref("authorizer", "rules")]) | st.builds(
    lambda requests, per: ref("rate-limiter", "token-bucket", {"requests": requests, "per": per}), st.integers(1, 100), durations
)
header_ops = st.builds(
    HeaderOps, remove=tuples(field_names), set=st.dictionaries(field_names, values, max_size=2), add=st.dictionaries(field_names, values, max_size=2)
)
value_matches = st.builds(
    lambda name, test, text, invert: ValueMatch(name=name, invert=invert, **{test: text}),
    field_names,
    st.sampled_from(["exact", "prefix", "suffix", "contains"]),
    texts,
    st.booleans(),
)
path_tests = st.sampled_from(["path", "prefix", "segment_prefix"]).flatmap(
    lambda key: st.builds(lambda text: {key: text}, st.sampled_from(["/", "/a", "/${A}"]))
)
matches = st.builds(
    lambda test, **rest: RouteMatch(**test, **rest),
    path_tests,
    methods=tuples(st.sampled_from(["GET", "X-OWN"])),
    headers=tuples(value_matches),
    query=tuples(value_matches),
)
rewrites = st.builds(Rewrite, prefix=paths, host=some(hosts)) | st.builds(Rewrite, regex=st.just(r"/(\d+)\.x"), substitution=st.just(r"/\1"))
forwards = st.builds(lambda cluster: {"cluster": cluster}, clusters) | st.builds(
    lambda shares: {"weighted_clusters": shares}, tuples(st.builds(WeightedCluster, cluster=clusters, weight=st.integers(1, 1000)), min_size=1)
)
sent_on = st.builds(
    lambda action, **rest: Route(**action, **rest),
    forwards,
    match=matches,
    name=texts,
    timeout=some(durations),
    idle_timeout=some(durations),
    rewrite=some(rewrites),
    request_headers=some(header_ops),
)
redirects = st.builds(
    Redirect, status=st.sampled_from([301, 308]), host=hosts, scheme=st.sampled_from([None, "https"]), port=some(st.integers(1, 65535)), path=some(paths)
)
answered = st.builds(Route, redirect=redirects, response_headers=some(header_ops)) | st.builds(
    Route, direct_response=st.builds(DirectResponse, status=st.integers(400, 599), body=texts)
)
virtual_hosts = st.builds(
    lambda routes, **rest: VirtualHost(name="v", routes=routes, **rest), tuples(sent_on | answered, max_size=3), response_headers=some(header_ops)
)
tables = st.builds(lambda hosts: RouteTable(name="t", virtual_hosts=hosts), st.lists(virtual_hosts, max_size=1).map(tuple))
managers = st.builds(
    HTTPManager,
    routes=st.just("t") | tables,
    http_filters=tuples(filters),
    upgrades=tuples(st.sampled_from(["websocket", "connect"])),
    half_close=st.sampled_from(["abort", "answer"]),
    idle_timeout=durations,
    limits=st.builds(HTTPLimits, head_bytes=sizes, head_fields=st.integers(1, 500), head_timeout=durations),
    access_logs=st.just(()) | st.just((ref("access-log", "json", {"path": "/var/log/a b.log", "buffer": 2048}),)),
    tracing=some(st.builds(Tracing, tracer=st.just(ref("tracer", "w3c")), sample=st.floats(0, 1))),
)
downstream_tls = st.builds(DownstreamTLS, certificate=certificates, trust=some(certificates), minimum_version=st.sampled_from(["1.2", "1.3"]))
chains = st.builds(
    lambda chosen, tls, prefixes: FilterChain(match=ChainMatch(source_prefixes=prefixes), tls=tls, **chosen),
    managers.map(lambda http: {"http": http}) | clusters.map(lambda cluster: {"tcp": TCPProxy(cluster=cluster)}),
    some(downstream_tls),
    tuples(st.sampled_from(["10.0.0.0/8", "::/0", "10.0.0.1"])),
)
listeners = st.builds(
    lambda number, **rest: Listener(name=f"l{number}", **rest),
    st.integers(0, 5),
    address=addresses.filter(lambda address: not address.is_unix),
    direction=st.sampled_from(["inbound", "outbound"]),
    filter_chains=tuples(chains, min_size=1, max_size=1),
    connection_filters=tuples(st.just(ref("connection-filter", "address-list"))),
    sniff_timeout=durations,
)
upstream_tls = st.builds(UpstreamTLS, certificate=some(certificates), identities=tuples(st.just("spiffe://example.org/ns/a/sa/b"))) | st.builds(
    UpstreamTLS, hostname=hosts
)


@st.composite
def models(draw: st.DrawFn) -> Config:
    made = [
        Cluster(
            name=name,
            endpoints=draw(tuples(st.builds(Endpoint, address=targets, weight=st.integers(0, 9)), unique_by=lambda each: each.address)),
            balancer=ref("balancer", "round-robin"),
            connect_timeout=draw(durations),
            tls=draw(some(upstream_tls)),
            pool=draw(st.builds(PoolLimits, max_connections=st.integers(1, 10), idle_timeout=durations)),
            head_bytes=draw(sizes),
        )
        for name in CLUSTERS
    ]
    files = {"certificate": "/a", "key": "/b c", "trust": "/${C}"}
    return Config(
        node=draw(st.builds(Node, service=st.sampled_from(["orders", "1", "on"]), trust_domain=st.sampled_from(["example.org", "1.2"]))),
        listeners=draw(st.lists(listeners, max_size=2, unique_by=lambda each: each.name).map(tuple)),
        route_tables=(draw(tables),),
        clusters=tuple(made),
        certificates=tuple(Certificate(name=name, source=ref("certificate-source", "pem-files", files)) for name in CERTIFICATES),
        admin=draw(some(st.builds(Admin, address=addresses))),
        drain_time=draw(durations),
    )


def essence(config: Config) -> Any:
    """The configuration without where things stand, plugin configurations by their values."""
    return plain(config, defaults=False, secrets=True)


@settings(max_examples=25)
@given(models(), st.booleans())
def test_whatever_is_written_loads_again(tmp_path_factory: pytest.TempPathFactory, finder: Any, model: Config, defaults: bool) -> None:
    """Any model, written as YAML and loaded, is the same model, with or without its defaults."""
    file = tmp_path_factory.mktemp("render") / "model.yaml"
    file.write_text(to_yaml(model, defaults), encoding="utf-8")
    again = load(str(file), finder, {})
    assert json.dumps(essence(again), sort_keys=True) == json.dumps(_typed(essence(model)), sort_keys=True)


def test_awkward_texts_come_back(loaded: Callable[..., Config]) -> None:
    """Whatever a reader of either YAML version could take for something else is still text when it is read again, as a value, in a list and as a key."""
    routes = tuple(Route(direct_response=DirectResponse(status=200, body=text)) for text in AWKWARD)
    virtual_host = VirtualHost(name="v", routes=routes, request_headers=HeaderOps(set={"on": "on", "1": "1", "null": "null"}))
    model = Config(route_tables=(RouteTable(name="t", virtual_hosts=(virtual_host,)),))
    again = loaded(to_yaml(model))
    assert [route.direct_response.body for route in again.route_tables[0].virtual_hosts[0].routes if route.direct_response] == AWKWARD
    assert again.route_tables[0].virtual_hosts[0].request_headers == virtual_host.request_headers


def _typed(value: Any) -> Any:
    """A plugin's configuration as its class holds it, where the strategy wrote plain values: defaults gone, durations spelled."""
    from sidecar.config.syntax import format_duration, format_size

    if isinstance(value, dict):
        made = {key: _typed(each) for key, each in value.items()}
        if set(made) == {"requests", "per"}:
            made["per"] = format_duration(made["per"])
            return {key: each for key, each in made.items() if (key, each) != ("per", "1s")}
        if "buffer" in made:
            made["buffer"] = format_size(made["buffer"])
        return made
    return [_typed(each) for each in value] if isinstance(value, list) else value


SECRET = """service: orders
inbound: {listen: 127.0.0.1:15006, app: 127.0.0.1:8080, mtls: disabled}
extensions:
  - {kind: authenticator, name: acme.api-key, config: {key: {file: key.txt}}}
  - {kind: authenticator, name: acme.api-key, config: {key: "${KEY}", labels: {"${x}": 1}}}
"""


@pytest.fixture
def secretive(tmp_path: Path, loaded: Callable[..., Config]) -> Config:
    (tmp_path / "key.txt").write_text("hunter2\n")
    return loaded(SECRET.replace('"${x}"', "x"), KEY="hunter3")


def test_dump_has_no_secrets(secretive: Config) -> None:
    """The dump is JSON, holds defaults and origins, and three stars for each secret."""
    text = json.dumps(dump(secretive))
    assert "hunter" not in text
    assert text.count('"***"') == 2
    assert dump(secretive)["drain_time"] == "30s"
    assert dump(secretive)["clusters"][0]["origin"].endswith("sidecar.yaml:2:10")


VARIABLES = """
listeners:
- {name: in, address: "127.0.0.1:${PORT}", direction: inbound, filter_chains: [{http: {routes: t, http_filters: [
    {kind: filter, name: headers, config: {request: {set: {x.key: "Bearer ${TOKEN}", "x": "${UNSET:-usual}"}}}}]}}]}
route_tables: [{name: t, virtual_hosts: [{name: v, routes: [
    {direct_response: {status: 200, body: "${TOKEN}"}},
    {direct_response: {status: 200, body: "$${TOKEN}"}}]}]}]
"""


def test_dump_has_nothing_of_the_environment(loaded: Callable[..., Config]) -> None:
    """Texts that came out of it are as written; what the file says by itself, and what is no text, is shown as it is."""
    config = loaded(VARIABLES, TOKEN="hunter2-hunter2", PORT="8080")
    shown = dump(config)
    assert "hunter" not in json.dumps(shown)
    http = shown["listeners"][0]["filter_chains"][0]["http"]
    assert http["http_filters"][0]["config"]["request"]["set"] == {"x.key": "Bearer ${TOKEN}", "x": "usual"}
    assert [each["direct_response"]["body"] for each in shown["route_tables"][0]["virtual_hosts"][0]["routes"]] == ["${TOKEN}", "${TOKEN}"]
    assert shown["listeners"][0]["address"] == "127.0.0.1:8080"
    assert "Bearer hunter2-hunter2" in to_yaml(config)


def test_yaml_names_secrets_without_telling(secretive: Config, tmp_path: Path, loaded: Callable[..., Config]) -> None:
    """Written as YAML a secret is where it comes from, so the file still loads."""
    text = to_yaml(secretive)
    assert "hunter" not in text
    assert f"file: {tmp_path}/key.txt" in text
    assert '"${KEY}"' in text
    again = loaded(text, KEY="hunter3").listeners[0].filter_chains[0].http
    assert again is not None and again.http_filters[1].config.key.reveal() == "hunter3"


def test_yaml_reads_well(loaded: Callable[..., Config]) -> None:
    """Only what differs from the defaults is written, each object under a comment that says where it came from."""
    text = to_yaml(
        loaded("clusters:\n- {name: app, endpoints: [127.0.0.1:80, {address: 127.0.0.1:81, weight: 2}], connect_timeout: 0.25, head_bytes: 32768}\n")
    )
    first, *rest = text.splitlines()
    assert (first, rest[0].rpartition("/")[2]) == ("clusters:", "sidecar.yaml:2:3")
    assert rest[1:] == [
        "  - name: app",
        "    endpoints:",
        "      - address: 127.0.0.1:80",
        "      - address: 127.0.0.1:81",
        "        weight: 2",
        "    connect_timeout: 250ms",
        "    head_bytes: 32KiB",
    ]
    assert to_yaml(loaded("{}")) == "{}\n"
