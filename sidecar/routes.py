"""From a route of the model to what exchanges use, and from a TCP proxy to what tunnels use: everything that can be decided when configuration loads is
decided here. A part of `sidecar.assembly`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import random
from typing import Any

from sidecar import model
from sidecar.cluster.circuit import DEFAULT, HIGH
from sidecar.downstream.tcp import Target
from sidecar.headers import Headers
from sidecar.message import RequestHead
from sidecar.model import HTTPManager, PluginRef
from sidecar.policy.conditions import conditions_of
from sidecar.policy.descriptors import compile_descriptors
from sidecar.policy.retry import RetryRules
from sidecar.proxy import replies
from sidecar.proxy.hints import Hints
from sidecar.proxy.route import RouteRuntime
from sidecar.proxy.steps import Account, Step, compile_chain
from sidecar.routing.hash_policy import compile_hash_policies
from sidecar.routing.header_ops import compile_ops
from sidecar.routing.rewrite import compile_redirect, compile_rewrite
from sidecar.routing.table import RouteEntry
from sidecar.routing.weights import compile_weights
from sidecar.transport.lifetime import ends_at


class RouteBuilder:
    """For the routes of one listener's filter chain. `name`: that of the chain; `plugins`: those of its `http_filters`, in order; `plugin(ref, where)`: any
    other one, with its account; `connectors`: the clusters by name; `mirror`: compiles one of a route's mirrors.
    """

    def __init__(
        self,
        settings: HTTPManager,
        name: str,
        plugins: list[tuple[Any, Account]],
        plugin: Callable[[PluginRef, str], tuple[Any, Account]],
        connectors: Mapping[str, Any],
        mirror: Callable[[model.Mirror], Any],
        seconds: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._name = name
        self._plugins = plugins
        self._plugin = plugin
        self._connectors = connectors
        self._mirror = mirror
        self._seconds = seconds

    def build(self, entry: RouteEntry) -> RouteRuntime:
        """The route as exchanges use it."""
        settings = self._settings
        route = entry.route
        runtime = RouteRuntime(entry.name)
        chosen = self._route_plugins(route)
        runtime.chain = compile_chain(chosen, compile_descriptors, self._seconds)
        runtime.timeout = model.ROUTE_TIMEOUT_SECONDS if route.timeout is None else route.timeout
        runtime.timeout_ends_with_head = route.timeout is None
        runtime.idle_timeout = settings.idle_timeout if route.idle_timeout is None else route.idle_timeout
        runtime.upgrade_idle_timeout = settings.upgrade_idle_timeout if route.upgrade_idle_timeout is None else route.upgrade_idle_timeout
        runtime.priority = HIGH if route.priority == "high" else DEFAULT
        runtime.hash_key = compile_hash_policies(route.hash_policy)
        runtime.retry = None if route.retry is None else self._retry_rules(route, route.retry)
        runtime.silent_after = _silent_after(route, runtime.timeout)
        if route.mirrors:
            runtime.mirrors = tuple(self._mirror(each) for each in route.mirrors)
        runtime.rewrite = compile_rewrite(route.rewrite, route.match)
        runtime.edit_request = _both(compile_ops(entry.virtual_host.request_headers), compile_ops(route.request_headers))
        runtime.edit_response = _both(compile_ops(route.response_headers), compile_ops(entry.virtual_host.response_headers))
        if route.cluster is not None:
            runtime.connector = self._connectors.get(route.cluster)
            runtime.cluster_name = route.cluster
            runtime.metadata_matches = self._subsets(route, [(route.cluster, {})])
        elif route.weighted_clusters:
            connectors = [self._connectors[each.cluster] for each in route.weighted_clusters]
            pick = compile_weights([each.weight for each in route.weighted_clusters])
            runtime.pick_connector = lambda random: connectors[pick(random)]
            runtime.metadata_matches = self._subsets(route, [(each.cluster, each.metadata_match) for each in route.weighted_clusters])
        else:
            runtime.answer = _answer(route)
        runtime.hints = self._hints(entry, runtime)
        return runtime

    def _subsets(self, route: model.Route, clusters: list[tuple[str, dict[str, str]]]) -> dict[str, tuple[tuple[str, str], ...]] | None:
        """What metadata the route asks for in each cluster, made known there."""
        matches = {}
        for cluster, own in clusters:
            match = tuple(sorted({**route.metadata_match, **own}.items()))
            if match and cluster in self._connectors:
                matches[cluster] = match
                self._connectors[cluster].add_subset(match)
        return matches or None

    def _retry_rules(self, route: model.Route, retry: model.Retry) -> RetryRules:
        """The limits, and the policy in use: the one that is named, else the built-in one with the conditions that stand beside the limits."""
        ref = retry.policy or PluginRef(kind="retry-policy", name="conditions", config=conditions_of(retry))
        policy, account = self._plugin(ref, f"{self._name} route {route.name}")
        return RetryRules(retry, Step(policy.decide, account, 0), policy.statuses, route.hedge)

    def _hints(self, entry: RouteEntry, runtime: RouteRuntime) -> Hints | None:
        """What callers may ask for and attempts are told; None where that is nothing."""
        route, settings = entry.route, self._settings
        has_time = route.timeout is not None or (route.retry is not None and route.retry.per_try_timeout > 0)
        mode, counts = settings.envoy_headers, entry.virtual_host.include_request_attempt_count
        tells_time = settings.send_expected_timeout and (has_time or mode == "honor")
        # A call of gRPC says how long its caller waits, and each further attempt has less; there are none where HTTP/1.1 is spoken.
        may_call = route.retry is not None and (runtime.connector is None or runtime.connector.cluster.protocol != "h1")
        if mode == "pass" and not (tells_time or counts or may_call or route.max_stream_duration is not None):
            return None
        rules = None if mode != "honor" else self._retry_rules(route, model.Retry(on=(), attempts=2))
        return Hints(runtime.timeout, runtime.timeout_ends_with_head, mode, route.max_stream_duration, rules, tells_time, counts)

    def _route_plugins(self, route: model.Route) -> list[tuple[Any, Account]]:
        """The listener's plugins with what this route changes of them. Positions stay: a plugin that is off keeps its place, so that a reroute goes on at
        the right one.
        """
        overrides = {(each.kind, each.name): each for each in route.filters}
        chosen: list[tuple[Any, Account]] = []
        for ref, pair in zip(self._settings.http_filters, self._plugins, strict=True):
            override = overrides.get((ref.kind, ref.name))
            if override is None:
                chosen.append(pair)
            elif override.disabled:
                chosen.append((None, pair[1]))
            else:
                own = PluginRef(kind=ref.kind, name=ref.name, config=override.config, fail_open=ref.fail_open, origin=override.origin)
                chosen.append(self._plugin(own, f"{self._name} route {route.name}"))
        return chosen


def _silent_after(route: model.Route, timeout: float) -> float:
    """For how long an endpoint may be silent before a safe request gets company; 0.0 for ever, also where the attempts' times are configured otherwise."""
    retry = route.retry
    if retry is None or retry.attempts < 2:
        return 0.0
    if retry.silent_after is not None:
        return retry.silent_after
    if retry.per_try_timeout or route.hedge is not None:
        return 0.0
    return timeout / retry.attempts if retry.policy is None and not {"timeout", "reset", "gateway-error", "5xx"}.isdisjoint(retry.on) else 0.0


def tcp_target(settings: model.TCPProxy, connectors: Mapping[str, Any]) -> Target:
    """Where the connections of a chain with `tcp` go."""
    shares = settings.weighted_clusters or (model.WeightedCluster(cluster=settings.cluster or ""),)
    targets = []
    for share in shares:
        match = tuple(sorted({**settings.metadata_match, **share.metadata_match}.items())) or None
        connector = connectors[share.cluster]
        if match is not None:
            connector.add_subset(match)
        targets.append((connector, match))
    pick = compile_weights([share.weight for share in shares])
    lifetime = partial(ends_at, settings.max_downstream_connection_duration, settings.max_downstream_connection_duration_jitter)
    return Target(lambda: targets[pick(random())], settings.max_connect_attempts, settings.idle_timeout, lifetime)


def _both(first: Any, second: Any) -> Any:
    """One edit after the other; None when there is none."""
    if first is None or second is None:
        return first or second

    def edit(headers: Any) -> None:
        first(headers)
        second(headers)

    return edit


def _answer(route: model.Route) -> Callable[[RequestHead], tuple[Any, bytes]]:
    """The compiled redirect or direct response."""
    redirect = route.redirect
    if redirect is not None:
        location = compile_redirect(redirect, route.match)
        return lambda head: replies.text_reply(redirect.status, b"text/plain", b"", head, Headers.of([(b"Location", location(head))]))
    direct = route.direct_response
    assert direct is not None
    body = direct.body.encode()
    content_type = direct.content_type.encode()
    return lambda head: replies.text_reply(direct.status, content_type, body, head)
