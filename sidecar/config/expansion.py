"""The short form's nodes made into those of the full form.

Nodes rather than values, so that a problem found in the full form still points to the line, column and path that the user wrote: what is taken over is the very
node of the file, what is made here carries the marks and the path of the node it was made for.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Iterator
from typing import TypeVar

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sidecar.config.document import BOOL, MAP, NULL, SEQ, STR, join
from sidecar.config.short import HEALTH_CHECK_KEYS, SHORT_KEYS

_NodeT = TypeVar("_NodeT", bound=Node)

IDENTITY_NAME = "workload"
APP_CLUSTER = "app"
FULL_KEYS = ("listeners", "route_tables", "clusters", "certificates")
CHAIN_KINDS = ("authenticator", "authorizer", "rate-limiter", "filter")
PLACEHOLDER_ADDRESS = "127.0.0.1:0"  # stands for an address that is missing or wrong, which was already reported


def is_short(root: MappingNode) -> bool:
    """Is this file written in the short form? It is when a key stands in it that only the short form has; without `service`, which that form must have, keys of
    the full form show that one of the others strayed into it.
    """
    keys = {key.value for key, _ in root.value}
    if "service" in keys or not keys & SHORT_KEYS.keys():
        return bool(keys & SHORT_KEYS.keys())
    return "node" not in keys and (not keys & set(FULL_KEYS) or bool(keys & {"inbound", "outbound"}))


def service_hosts(name: str, namespace: str) -> list[str]:
    """The names that an application calls a service by, as in Kubernetes."""
    return [name, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local"]


def node_paths(root: Node) -> dict[int, str]:
    """The path of every node, by its id; of one that aliases give several paths, the first."""
    paths: dict[int, str] = {}

    def visit(node: Node, path: str) -> None:
        if id(node) in paths:
            return
        paths[id(node)] = path
        if isinstance(node, MappingNode):
            for key, value in node.value:
                paths.setdefault(id(key), join(path, key.value))
                visit(value, join(path, key.value))
        elif isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                visit(item, f"{path}[{index}]")

    visit(root, "")
    return paths


class Expansion:
    """One short form being expanded. `failed`: ids of nodes that are known to be wrong; they are left out. `paths` is extended with the nodes made here.
    `directory`: what relative paths start from."""

    def __init__(self, root: MappingNode, failed: set[int], paths: dict[int, str], directory: str = "") -> None:
        self._root = root
        self._directory = directory
        self._failed = failed
        self._paths = paths
        self._service = self._word(root, "service", "unknown")
        self._namespace = self._word(root, "namespace", "default")
        self._trust_domain = self._word(root, "trust_domain", "cluster.local")
        self._inbound = self._section("inbound")
        self._outbound = self._section("outbound")

    def full(self) -> MappingNode:
        """The root of the full form."""
        root = self._root
        listeners: list[Node] = []
        tables: list[Node] = []
        clusters: list[Node] = []
        if self._inbound is not None:
            listeners.append(self._inbound_listener(self._inbound))
            tables.append(self._inbound_table(self._inbound))
            clusters.append(self._app_cluster(self._inbound))
        if self._outbound is not None:
            listeners.append(self._outbound_listener(self._outbound))
            tables.append(self._outbound_table(self._outbound))
            clusters.extend(self._service_cluster(name, service) for name, service in self._services())
        made: dict[str, list[Node]] = {"listeners": listeners, "route_tables": tables, "clusters": clusters, "certificates": self._certificates()}
        full: dict[str, Node | None] = {
            "node": self._mapping(
                root,
                service=self._given(root, "service"),
                namespace=self._given(root, "namespace"),
                trust_domain=self._given(root, "trust_domain"),
                locality=self._given(root, "locality"),
            )
        }
        for key in FULL_KEYS:
            written = self._any(root, key)  # also when something in it is wrong: its names count
            full[key] = self._sequence(root, [*made[key], *(written.value if isinstance(written, SequenceNode) else [])])
        # null means "no admin pages", so it is taken over as it is.
        full["admin"] = next((value for key, value in root.value if key.value == "admin" and id(value) not in self._failed), None)
        full["local_cluster_name"] = self._given(root, "local_cluster_name")
        full["drain_time"] = self._given(root, "drain_time")
        full["overload"] = self._given(root, "overload")
        full["warming_time"] = self._given(root, "warming_time")
        return self._mapping(root, **full)

    # -- reading -----------------------------------------------------------------------------------------------------------------------------

    def _any(self, mapping: Node | None, key: str) -> Node | None:
        """What stands under `key`, right or wrong; None for nothing."""
        if isinstance(mapping, MappingNode):
            value: Node
            for name, value in mapping.value:
                if name.value == key and not (isinstance(value, ScalarNode) and value.tag == NULL):
                    return value
        return None

    def _given(self, mapping: Node | None, key: str) -> Node | None:
        """What stands under `key` and is right as far as is known."""
        node = self._any(mapping, key)
        return None if node is None or id(node) in self._failed else node

    def _section(self, key: str) -> MappingNode | None:
        node = self._any(self._root, key)
        return node if isinstance(node, MappingNode) else None

    def _word(self, mapping: Node | None, key: str, default: str) -> str:
        node = self._given(mapping, key)
        return node.value if isinstance(node, ScalarNode) else default

    def _services(self) -> Iterator[tuple[ScalarNode, MappingNode]]:
        services = self._any(self._outbound, "services")
        if isinstance(services, MappingNode):
            for name, service in services.value:
                if isinstance(service, MappingNode):
                    yield name, service

    def _is_mtls(self, service: MappingNode) -> bool:
        return self._word(service, "mtls", "true").lower() == "true"

    # -- making ------------------------------------------------------------------------------------------------------------------------------

    def _made(self, near: Node, node: _NodeT) -> _NodeT:
        self._paths[id(node)] = self._paths.get(id(near), "")
        return node

    def _text(self, near: Node, text: str, tag: str = STR) -> ScalarNode:
        return self._made(near, ScalarNode(tag, text, near.start_mark, near.end_mark))

    def _path(self, near: Node, path: str) -> ScalarNode:
        """A path made absolute here, so that it does not depend on how the plugin that gets it reads paths; "-" stays."""
        return self._text(near, path if path == "-" else os.path.normpath(os.path.join(self._directory, path)))

    def _mapping(self, near: Node, **entries: Node | None) -> MappingNode:
        pairs: list[tuple[Node, Node]] = [(self._text(near, key), value) for key, value in entries.items() if value is not None]
        return self._made(near, MappingNode(MAP, pairs, near.start_mark, near.end_mark))

    def _sequence(self, near: Node, items: Iterable[Node]) -> SequenceNode:
        return self._made(near, SequenceNode(SEQ, list(items), near.start_mark, near.end_mark))

    def _texts(self, near: Node, texts: Iterable[str]) -> SequenceNode:
        return self._sequence(near, [self._text(near, text) for text in texts])

    def _plugin(self, near: Node, kind: str, name: str, config: Node | None = None) -> MappingNode:
        return self._mapping(near, kind=self._text(near, kind), name=self._text(near, name), config=config)

    # -- plugins -----------------------------------------------------------------------------------------------------------------------------

    def _extensions(self, side: str, kinds: Iterable[str]) -> list[Node]:
        """The entries under `extensions` for one side, in their order, as plugin references."""
        listed = self._any(self._root, "extensions")
        found: list[Node] = []
        for entry in listed.value if isinstance(listed, SequenceNode) else []:
            if not isinstance(entry, MappingNode) or id(entry) in self._failed:
                continue
            if self._word(entry, "kind", "") in kinds and self._word(entry, "direction", "inbound") in (side, "both"):
                pairs = [(key, value) for key, value in entry.value if key.value != "direction"]
                found.append(self._made(entry, MappingNode(MAP, pairs, entry.start_mark, entry.end_mark)))
        return found

    def _access_logs(self, near: Node, side: str) -> SequenceNode:
        written = self._given(self._root, "access_log")
        logs: list[Node] = []
        if isinstance(written, SequenceNode):
            logs = list(written.value)
        elif isinstance(written, MappingNode):
            logs = [written]
        elif not (isinstance(written, ScalarNode) and (written.value == "off" or (written.tag == BOOL and written.value.lower() == "false"))):
            place = written if isinstance(written, ScalarNode) else near
            path = written.value if isinstance(written, ScalarNode) and written.tag == STR else "-"
            logs = [self._plugin(place, "access-log", "json", self._mapping(place, path=self._path(place, path)))]
        return self._sequence(near, [*logs, *self._extensions(side, ("access-log",))])

    def _tracing(self, near: Node, side: str) -> MappingNode | None:
        written = self._given(self._root, "tracing")
        if isinstance(written, ScalarNode) and written.value.lower() in ("off", "false"):
            return None
        tracers = self._extensions(side, ("tracer",))
        tracer = self._given(written, "tracer") or (tracers[0] if tracers else None)
        exporters = self._given(written, "exporters")
        listed = list(exporters.value) if isinstance(exporters, SequenceNode) else []
        file = self._given(written, "file")
        if isinstance(file, ScalarNode):
            listed.append(self._plugin(file, "span-exporter", "json", self._mapping(file, path=self._path(file, file.value))))
        return self._mapping(
            written or near,
            tracer=tracer,
            sample=self._given(written, "sample"),
            exporters=self._sequence(near, [*listed, *self._extensions(side, ("span-exporter",))]),
        )

    def _http(self, near: MappingNode, side: str, filters: list[Node], **more: Node | None) -> MappingNode:
        return self._mapping(
            near,
            routes=self._text(near, side),
            http_filters=self._sequence(near, [*filters, *self._extensions(side, CHAIN_KINDS)]),
            upgrades=self._given(near, "upgrades"),
            access_logs=self._access_logs(near, side),
            tracing=self._tracing(near, side),
            **more,
        )

    # -- in ----------------------------------------------------------------------------------------------------------------------------------

    def _listener(self, near: MappingNode, side: str, chains: list[Node]) -> MappingNode:
        return self._mapping(
            near,
            name=self._text(near, side),
            address=self._given(near, "listen") or self._text(near, PLACEHOLDER_ADDRESS),
            direction=self._text(near, side),
            connection_filters=self._sequence(near, self._extensions(side, ("connection-filter",))),
            filter_chains=self._sequence(near, chains),
        )

    def _inbound_listener(self, near: MappingNode) -> MappingNode:
        mode = self._word(near, "mtls", "strict")
        chains: list[Node] = []
        if mode != "disabled":
            tls = self._mapping(near, certificate=self._text(near, IDENTITY_NAME))
            http = self._inbound_http(near, [self._plugin(near, "authenticator", "mtls")])
            chains.append(self._mapping(near, match=self._protocol(near, "tls"), tls=tls, http=http))
        if mode != "strict":
            match = self._protocol(near, "raw") if mode == "permissive" else None
            chains.append(self._mapping(near, match=match, http=self._inbound_http(near, [])))
        return self._listener(near, "inbound", chains)

    def _protocol(self, near: Node, name: str) -> MappingNode:
        return self._mapping(near, transport_protocol=self._text(near, name))

    def _inbound_http(self, near: MappingNode, filters: list[Node]) -> MappingNode:
        return self._http(
            near,
            "inbound",
            filters,
            forwarded_client_cert=self._text(near, "set"),
            forwarded_for=self._text(near, "true", BOOL),
            idle_timeout=self._given(near, "idle_timeout"),
        )

    def _inbound_table(self, near: MappingNode) -> MappingNode:
        route = self._mapping(near, name=self._text(near, APP_CLUSTER), cluster=self._text(near, APP_CLUSTER), timeout=self._given(near, "timeout"))
        host = self._mapping(near, name=self._text(near, APP_CLUSTER), domains=self._texts(near, ["*"]), routes=self._sequence(near, [route]))
        return self._mapping(near, name=self._text(near, "inbound"), virtual_hosts=self._sequence(near, [host]))

    def _app_cluster(self, near: MappingNode) -> MappingNode:
        app = self._given(near, "app")
        endpoints = app if isinstance(app, SequenceNode) else self._sequence(near, [app] if app is not None else [])
        return self._mapping(
            near, name=self._text(near, APP_CLUSTER), endpoints=endpoints, protocol=self._given(near, "protocol"), pool=self._given(near, "pool")
        )

    # -- out ---------------------------------------------------------------------------------------------------------------------------------

    def _outbound_listener(self, near: MappingNode) -> MappingNode:
        return self._listener(near, "outbound", [self._mapping(near, http=self._http(near, "outbound", []))])

    def _outbound_table(self, near: MappingNode) -> MappingNode:
        hosts = [self._service_host(name, service) for name, service in self._services()]
        return self._mapping(near, name=self._text(near, "outbound"), virtual_hosts=self._sequence(near, hosts))

    def _service_host(self, name: ScalarNode, service: MappingNode) -> MappingNode:
        route = self._mapping(
            service,
            name=self._named(name),
            cluster=self._named(name),
            timeout=self._given(service, "timeout"),
            idle_timeout=self._given(service, "idle_timeout"),
            retry=self._given(service, "retry"),
            hedge=self._given(service, "hedge"),
            mirrors=self._given(service, "mirrors"),
        )
        domains = self._given(service, "hosts") or self._texts(name, service_hosts(name.value, self._namespace))
        return self._mapping(service, name=self._named(name), domains=domains, routes=self._sequence(service, [route]))

    def _named(self, name: ScalarNode) -> ScalarNode:
        # A key is text however it looks: a service may be called 1 or on.
        return self._text(name, name.value)

    def _service_cluster(self, name: ScalarNode, service: MappingNode) -> MappingNode:
        balancer = self._given(service, "balancer")
        if isinstance(balancer, ScalarNode):
            balancer = self._mapping(balancer, kind=self._text(balancer, "balancer"), name=balancer)
        return self._mapping(
            service,
            name=self._named(name),
            endpoints=self._given(service, "endpoints"),
            discovery=self._discovery(service),
            tls=self._upstream_tls(name, service) if self._is_mtls(service) else None,
            # The other side is a sidecar as a rule, and one connection carries many requests then.
            protocol=self._given(service, "protocol") or (self._text(service, "auto") if self._is_mtls(service) else None),
            balancer=balancer,
            connect_timeout=self._given(service, "connect_timeout"),
            pool=self._given(service, "pool"),
            circuit_breakers=self._given(service, "circuit_breakers"),
            outlier_detection=self._given(service, "outlier_detection"),
            health_checks=self._health_checks(service),
            healthy_panic_threshold=self._given(service, "healthy_panic_threshold"),
            locality_lb=self._given(service, "locality_lb"),
            slow_start_config=self._given(service, "slow_start_config"),
        )

    def _health_checks(self, service: MappingNode) -> SequenceNode | None:
        """The short one, then those written out."""
        short, written = self._given(service, "health_check"), self._given(service, "health_checks")
        checks: list[Node] = list(written.value) if isinstance(written, SequenceNode) else []
        if isinstance(short, MappingNode):
            kind = self._word(short, "type", "http")
            own = {key: self._given(short, key) for key in HEALTH_CHECK_KEYS.get(kind, ())}
            plugin = self._plugin(short, "health-check", kind, self._mapping(short, **own))
            when = {key: self._given(short, key) for key in ("port", "timeout", "interval", "unhealthy_threshold", "healthy_threshold")}
            checks.insert(0, self._mapping(short, check=plugin, **when))
        return self._sequence(service, checks) if checks else None

    def _discovery(self, service: MappingNode) -> Node | None:
        """The plugin that finds the service's endpoints; the two that are named most often have keys of their own."""
        if self._any(service, "endpoints") is not None:
            return None
        names, file = self._given(service, "dns"), self._given(service, "endpoints_file")
        if names is not None:
            return self._plugin(names, "discovery", "dns", self._mapping(names, names=names))
        if isinstance(file, ScalarNode):
            return self._plugin(file, "discovery", "file", self._mapping(file, path=self._path(file, file.value)))
        return self._given(service, "discovery")

    def _upstream_tls(self, name: ScalarNode, service: MappingNode) -> MappingNode:
        identity = self._given(service, "identity")
        if identity is None:
            identity = self._text(name, f"spiffe://{self._trust_domain}/ns/{self._namespace}/sa/{name.value}")
        identities = identity if isinstance(identity, SequenceNode) else self._sequence(service, [identity])
        return self._mapping(service, certificate=self._text(service, IDENTITY_NAME), identities=identities)

    def _certificates(self) -> list[Node]:
        """Our identity, when anything needs it."""
        inbound = self._inbound is not None and self._word(self._inbound, "mtls", "strict") != "disabled"
        if not inbound and not any(self._is_mtls(service) for _, service in self._services()):
            return []
        written = self._any(self._root, "identity")
        if written is not None and id(written) in self._failed:
            written = None
        near = written or self._given(self._root, "service") or self._root
        source = self._given(written, "source")
        if source is None:
            directory = self._given(written, "directory")
            base = directory.value if isinstance(directory, ScalarNode) else os.path.join("certs", self._service)
            files: dict[str, Node] = {}
            for key, file in (("certificate", "cert.pem"), ("key", "key.pem"), ("trust", "ca.pem")):
                given = self._given(written, key)
                files[key] = self._path(given, given.value) if isinstance(given, ScalarNode) else self._path(directory or near, os.path.join(base, file))
            source = self._plugin(near, "certificate-source", "pem-files", self._mapping(near, **files))
        return [self._mapping(near, name=self._text(near, IDENTITY_NAME), source=source)]
