"""The short form's own rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest

INBOUND = "service: orders\ninbound: {listen: 127.0.0.1:15006, app: 127.0.0.1:8080}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("service: orders", "1:1: nothing is carried; expected inbound, outbound or listeners"),
        ("inbound: {listen: 127.0.0.1:1, app: 127.0.0.1:80}", "1:1: the key 'service' is missing: a string"),
        (INBOUND + "identity: {}", "3:11: identity: expected exactly one of directory, source, or certificate, key and trust; got none"),
        (INBOUND + "identity: {certificate: a}", "3:11: identity: certificate, key and trust belong together; missing: key and trust"),
        (
            INBOUND + "identity: {source: {kind: balancer, name: round-robin}}",
            "3:27: identity.source.kind: a plugin of the kind 'balancer' cannot stand in `source`; expected certificate-source",
        ),
        (
            INBOUND + "access_log: {kind: filter, name: headers}",
            "3:20: access_log.kind: a plugin of the kind 'filter' cannot stand in `access_log`; expected access-log",
        ),
        (
            INBOUND + "access_log: 5",
            "3:13: access_log: expected true or false or a string or a mapping with keys such as config, fail_open, kind and name or a list, got the number 5",
        ),
        (
            INBOUND + "tracing: maybe",
            "3:10: tracing: expected true or false or one of 'off' or a mapping with keys such as exporters, file, sample and tracer, got the string 'maybe'",
        ),
        (
            INBOUND + "extensions: [{kind: filter, name: headers, direction: outbound}]",
            "3:55: extensions[0].direction: this plugin is for outbound traffic, and the file has no `outbound`",
        ),
    ],
)
def test_rules(refused: Callable[..., list[str]], text: str, problem: str) -> None:
    """Each rule is told at the key that breaks it, and nothing follows from it."""
    assert sorted(refused(text)) == [problem]
