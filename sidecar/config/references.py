"""What must hold between the parts of a configuration: names are unique and known, addresses are free, overrides meet a filter.

It reads the records of the walk, so that a cluster that is wrong in itself still counts as named, and nobody is told of a consequence instead of the cause.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from yaml.nodes import MappingNode

from sidecar.address import Address
from sidecar.config.cluster_checks import KEYED_BALANCERS, KEYLESS_BALANCERS
from sidecar.config.convert import Conversion, Record
from sidecar.config.suggest import did_you_mean, listing
from sidecar.model import (
    Admin,
    Certificate,
    Cluster,
    Config,
    DownstreamTLS,
    FilterOverride,
    HTTPManager,
    Listener,
    LocalityLB,
    Mirror,
    Node,
    PluginRef,
    Route,
    RouteMatch,
    RouteTable,
    TCPProxy,
    UpstreamTLS,
    VirtualHost,
    WeightedCluster,
)
from sidecar.policy.rules import Rule

# (struct, key) -> (what it names, in words)
REFERENCES: dict[tuple[type, str], tuple[type, str]] = {
    (Route, "cluster"): (Cluster, "cluster"),
    (WeightedCluster, "cluster"): (Cluster, "cluster"),
    (Mirror, "cluster"): (Cluster, "cluster"),
    (Config, "local_cluster_name"): (Cluster, "cluster"),
    (TCPProxy, "cluster"): (Cluster, "cluster"),
    (HTTPManager, "routes"): (RouteTable, "route table"),
    (DownstreamTLS, "certificate"): (Certificate, "certificate"),
    (DownstreamTLS, "trust"): (Certificate, "certificate"),
    (UpstreamTLS, "certificate"): (Certificate, "certificate"),
    (UpstreamTLS, "trust"): (Certificate, "certificate"),
}


def check_references(conversion: Conversion, is_complete: bool = True, is_right: bool = True) -> None:
    """Report everything that is wrong between the structs that `conversion` met. `is_complete`: no plugin was left out because its entry is wrong; `is_right`:
    the short form, if it was one, had no problems."""
    _names(conversion)
    _references(conversion)
    _domains(conversion)
    _addresses(conversion)
    _places(conversion)
    _subsets(conversion)
    _slashes(conversion)
    _keys(conversion)
    if is_right:
        _origins(conversion)
    if is_complete:
        _overrides(conversion)


def _of(conversion: Conversion, cls: type) -> Iterator[Record]:
    return (record for record in conversion.records if record.cls is cls)


def _place(record: Record, key: str) -> str:
    mark = record.keys[key].start_mark
    return f"line {mark.line + 1}"


def _top_level(conversion: Conversion, cls: type) -> Iterator[Record]:
    """The named objects of the file itself; inline route tables are nobody else's."""
    return (record for record in _of(conversion, cls) if record.parent is not None and record.parent.cls is Config)


def _unique(records: Iterator[Record], what: str) -> None:
    first: dict[str, Record] = {}
    for record in records:
        name = record.get("name")
        if name is None:
            continue
        other = first.setdefault(name, record)
        if other is not record:
            record.problem(f"there is another {what} named {name!r} in {_place(other, 'name')}", "name")


def _names(conversion: Conversion) -> None:
    for cls, what in ((Listener, "listener"), (RouteTable, "route table"), (Cluster, "cluster"), (Certificate, "certificate")):
        _unique(_top_level(conversion, cls), what)
    for table in _of(conversion, RouteTable):
        _unique((record for record in _of(conversion, VirtualHost) if record.parent is table), "virtual host")


def _references(conversion: Conversion) -> None:
    known: dict[type, set[str]] = {}
    for cls in {target for target, _ in REFERENCES.values()}:
        known[cls] = {name for record in _top_level(conversion, cls) if (name := record.get("name")) is not None}
    for record in conversion.records:
        for (cls, key), (target, what) in REFERENCES.items():
            name = record.get(key) if record.cls is cls else None
            if isinstance(name, str) and name not in known[target]:
                record.problem(f"there is no {what} named {name!r}; known: {listing(known[target])}", key, did_you_mean(name, known[target]))


def _domains(conversion: Conversion) -> None:
    for table in _of(conversion, RouteTable):
        taken: dict[str, Record] = {}
        for host in _of(conversion, VirtualHost):
            if host.parent is not table:
                continue
            domains: list[tuple[str, Callable[[str], None]]] = list(host.texts("domains")) if "domains" in host.keys else [("*", host.problem)]
            for domain, report in domains:
                other = taken.setdefault(domain.lower(), host)
                if other is not host:
                    report(f"the domain {domain!r} already belongs to the virtual host {other.get('name', '?')!r}")
                elif sum(each.lower() == domain.lower() for each, _ in domains) > 1:
                    report(f"the domain {domain!r} stands here more than once")


def _overlap(one: Address, two: Address) -> bool:
    """Would the second of these fail to bind? A wildcard takes the port for every address of its family."""
    if one.is_unix or two.is_unix:
        return one == two
    if one.port != two.port or one.port == 0:
        return False
    hosts = ["127.0.0.1" if each.host == "localhost" else each.host for each in (one, two)]
    try:
        first, second = map(ipaddress.ip_address, hosts)
    except ValueError:
        return hosts[0] == hosts[1]
    return first.version == second.version and (first == second or first.is_unspecified or second.is_unspecified)


def _addresses(conversion: Conversion) -> None:
    taken: list[tuple[Address, str]] = []
    root = next(_of(conversion, Config), None)
    if root is not None and "admin" not in root.keys:
        taken.append((Admin().address, "the admin pages (their default; write `admin:` to move them)"))
    records = [record for record in conversion.records if record.cls in (Listener, Admin)]
    for record in records:
        address = record.get("address")
        if address is None:
            continue
        for other, who in taken:
            if _overlap(address, other):
                record.problem(f"the address {address} is already taken by {who}" + ("" if address == other else f" with {other}"), "address")
                break
        name = f"the listener {record.get('name', '?')!r}" if record.cls is Listener else "the admin pages"
        taken.append((address, f"{name} in {_place(record, 'address')}"))


def _places(conversion: Conversion) -> None:
    """Nearness is measured from somewhere."""
    for record in _of(conversion, LocalityLB):
        root: Record = record
        while root.parent is not None:
            root = root.parent
        places = [each for each in (root, *(each for each in _of(conversion, Node) if each.parent is root)) if each.has("locality")]
        if record.get("mode") in ("prefer", "zone_aware") and not places:
            record.problem("nobody is near as long as `locality` of this sidecar's node is not written", "mode")
        if record.get("mode") == "zone_aware" and not root.has("local_cluster_name"):
            record.problem("how many callers each zone has is not known as long as `local_cluster_name` is not written", "mode")


def _used(record: Record) -> list[str]:
    """The clusters to which a route, or a share of one, sends."""
    return [record.get("cluster")] if record.get("cluster") is not None else [share.cluster for share in record.get("weighted_clusters", ())]


def _keys(conversion: Conversion) -> None:
    """What a route's requests have in common is asked for by some balancers alone. What those of others do, nobody knows here; and a route that sends a share
    of its requests to a cluster without keys may need them for the other one.
    """
    clusters = {record.get("name"): record for record in _top_level(conversion, Cluster)}
    for record in (each for each in _of(conversion, Route) if each.get("hash_policy")):
        keyless = []
        for name in _used(record):
            balancer = clusters[name].get("balancer") if name in clusters else None
            if balancer is None or balancer.name not in KEYLESS_BALANCERS:
                break
            keyless.append(f"the balancer {balancer.name!r} of the cluster {name!r} does not look at it")
        else:
            if keyless:
                record.problem(f"{', '.join(keyless)}; those that do are {listing(KEYED_BALANCERS)}", "hash_policy")


def _subsets(conversion: Conversion) -> None:
    """Metadata is looked at only in clusters with subsets."""
    clusters = {record.get("name"): record for record in _top_level(conversion, Cluster)}
    for record in (each for each in conversion.records if each.cls in (Route, TCPProxy, WeightedCluster) and each.get("metadata_match")):
        for name in _used(record):
            cluster = clusters.get(name)
            if cluster is not None and "lb_subset_config" not in cluster.keys:
                record.problem(f"the cluster {name!r} has no `lb_subset_config`, so its endpoints' metadata would not be looked at", "metadata_match")


def _origins(conversion: Conversion) -> None:
    """It is said where a cluster's endpoints come from. Whoever has misspelt it is told so already."""
    known = set(Cluster.__struct_fields__)
    for record in _top_level(conversion, Cluster):
        written = {key.value for key, _ in record.node.value} if isinstance(record.node, MappingNode) else known
        if not ("endpoints" in written or record.has("discovery") or written - known):
            record.problem("expected `endpoints`, or a `discovery` that finds them; `endpoints: []` is a cluster without any, which answers 503 (UH)")


# Where a path is tested: what no request has there takes nothing, and a rule that is to deny it is a hole.
PATH_TESTS: dict[type, tuple[str, ...]] = {RouteMatch: ("path", "prefix", "segment_prefix"), Rule: ("paths", "not_paths")}


def _slashes(conversion: Conversion) -> None:
    """No path with a run of slashes is asked for where a listener makes one of them. One such listener among several is enough: there it would be silent."""
    for record in conversion.records:
        for key in PATH_TESTS.get(record.cls, ()):
            for text, report in record.texts(key):
                if "//" not in text:
                    continue
                merging = [_listener(user) for user in _users(conversion, record) if user.get("merge_slashes", True)]
                if merging:
                    one = re.sub("/{2,}", "/", text)
                    report(f"no request has {text!r} in its path at {merging[0]}, which merges slashes; write {one!r}, or `merge_slashes: false` there")


def _listener(manager: Record) -> str:
    above = manager.parent
    while above is not None and above.cls is not Listener:
        above = above.parent
    return "the listener" if above is None else f"the listener {above.get('name', '?')!r}"


def _users(conversion: Conversion, record: Record) -> list[Record]:
    """The HTTP managers for whose requests `record` counts: the one it stands in, or those that refer to the route table it stands in."""
    above = record.parent
    while above is not None and above.cls not in (HTTPManager, RouteTable):
        above = above.parent
    if above is None:
        return []
    if above.cls is HTTPManager:
        return [above]
    if above.parent is not None and above.parent.cls is HTTPManager:
        return [above.parent]
    return [each for each in _of(conversion, HTTPManager) if each.get("routes") == above.get("name")]


def _overrides(conversion: Conversion) -> None:
    for record in _of(conversion, FilterOverride):
        kind, name = record.get("kind"), record.get("name")
        if kind is None or name is None:
            continue
        users = _users(conversion, record)
        filters = [each for each in _of(conversion, PluginRef) if each.parent in users and each.field == "http_filters"]
        if users and not any((each.get("kind"), each.get("name")) == (kind, name) for each in filters):
            names = {str(each.get("name")) for each in filters if each.get("kind") == kind}
            record.problem(
                f"the listener has no {kind} named {name!r} among its `http_filters`; of this kind: {listing(names)}", "name", did_you_mean(name, names)
            )
