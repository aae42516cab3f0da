"""What the admin pages show. Each is made when it is asked for, from plain numbers that the path keeps anyway."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import sidecar as package
from sidecar.admin.server import Answer, Page
from sidecar.config.render import dumping
from sidecar.naming.places import Steps
from sidecar.telemetry.metrics import CONTENT_TYPE
from sidecar.upstream.shown import shown


def make_pages(sidecar: Any) -> dict[bytes, Page]:
    """The pages of a running `assembly.Sidecar`."""
    return {
        b"/healthz/live": Page(lambda query: Answer(b"alive\n"), "200 while the process serves its event loop"),
        b"/healthz/ready": Page(lambda query: _ready(sidecar), "200 when listeners are open, 503 while starting or draining"),
        b"/config_dump": Page(lambda query: _config(sidecar), "the configuration in use, without secrets"),
        b"/clusters": Page(
            lambda query: _clusters(sidecar, query),
            "clusters, endpoints, connections, counters; ?cluster=NAME&offset=1000 for one, from its thousandth endpoint on",
        ),
        b"/listeners": Page(lambda query: Answer.json(_listeners(sidecar)), "listeners, connections, counters"),
        b"/certs": Page(lambda query: Answer.json(sidecar.keyring.snapshot()), "certificates in use, validity, refused replacements"),
        b"/overload": Page(lambda query: Answer.json(sidecar.overload.snapshot()), "memory, event loop lag, limits of the process, what is refused"),
        b"/server_info": Page(lambda query: Answer.json(_server_info(sidecar)), "version, state, uptime, who this sidecar is"),
        b"/stats/prometheus": Page(lambda query: _metrics(sidecar), "metrics in Prometheus' text format"),
        b"/drain": Page(lambda query: _drain(sidecar), "stop accepting and let connections end; the process stays until it is told to stop", changes=True),
    }


def _ready(sidecar: Any) -> Answer:
    return Answer(b"ready\n") if sidecar.state == "ready" else Answer(f"{sidecar.state}\n".encode(), status=503)


def _config(sidecar: Any) -> Steps[Answer]:
    config = yield from dumping(sidecar.config)
    return (yield from Answer.long_json(config))


def _metrics(sidecar: Any) -> Steps[Answer]:
    text = yield from sidecar.registry.writing()
    return Answer(text, CONTENT_TYPE)


def _clusters(sidecar: Any, query: bytes) -> Steps[Answer]:
    """All clusters, or one of them."""
    asked = parse_qs(query.decode("latin-1"))
    name, offset = asked.get("cluster", [""])[0], asked.get("offset", ["0"])[0]
    if not (offset.isascii() and offset.isdigit()) or (name and name not in sidecar.connectors):
        return Answer(b"no such cluster or offset\n", status=404)
    made = []
    for each in list(sidecar.connectors) if not name else [name]:
        cluster = yield from shown(sidecar.connectors[each], int(offset[:9]))
        made.append({**cluster, **sidecar.discoveries.snapshot(each)})
    return (yield from Answer.long_json(made))


def _listeners(sidecar: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": listener.name,
            "direction": listener.listener.direction,
            "address": str(listener.address),
            "accepting": listener.port is not None and listener.port.accepts,
            "connections": listener.active,
            "filter_chains": [candidate.chain.name for candidate in listener.candidates],
            **listener.counters,
        }
        for listener in sidecar.listeners
    ]


def _server_info(sidecar: Any) -> dict[str, Any]:
    node = sidecar.config.node
    return {
        "version": package.__version__,
        "state": sidecar.state,
        "uptime_seconds": round(sidecar.reactor.seconds() - sidecar.started_at, 3),
        "service": node.service,
        "namespace": node.namespace,
        "trust_domain": node.trust_domain,
        "locality": "" if node.locality is None else str(node.locality),
        "reactor": type(sidecar.reactor).__name__,
    }


def _drain(sidecar: Any) -> Answer:
    sidecar.drain()
    return Answer(b"draining\n")
