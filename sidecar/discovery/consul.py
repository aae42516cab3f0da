"""Kind `discovery`, name `consul`: the instances of a service in Consul, told by blocking queries as soon as they change."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from msgspec import Meta, Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from sidecar.address import Address
from sidecar.discovery.asking import Asking
from sidecar.discovery.files import read_token
from sidecar.discovery.findings import Findings
from sidecar.discovery.http import Fetched, FetchFailed, Server
from sidecar.discovery.steps import in_turns
from sidecar.interfaces import IDiscovery
from sidecar.model import Backoff
from sidecar.naming import pace
from sidecar.naming.consul import ConsulEndpoints, next_index, parse

WAIT_SECONDS = 300.0  # Consul's default; it takes at most 600
MAX_WAIT_SECONDS = 600.0
# Consul adds up to a sixteenth to the wait; the rest is for the way.
GRACE_SECONDS = 10.0
MIN_INTERVAL_SECONDS = 0.25  # between two answers: a service that flaps must not keep both sides busy
POLL_SECONDS = 10.0  # when the answer has no index to wait for, as behind some proxies
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # ten thousand instances have about 15 MiB


@implementer(IDiscovery)
class Consul(Asking):
    """Asks a Consul agent. Made with `(config, context)`."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`service`: its name in Consul. `address`, `scheme`, `ca_file`: the agent. `passing`: only instances all of whose checks pass. `tags`: that all must
        have. `filter`: Consul's own expression. `datacenter`, `namespace`, `partition`: where. `token_file`: read for each query. `stale`: any server may
        answer. `wait`: how long one query waits for a change."""

        service: str
        address: Address = Address(host="127.0.0.1", port=8500)
        scheme: Literal["http", "https"] = "http"
        ca_file: Path | None = None
        passing: bool = True
        tags: tuple[str, ...] = ()
        filter: str | None = None
        datacenter: str | None = None
        namespace: str | None = None
        partition: str | None = None
        token_file: Path | None = None
        stale: bool = False
        wait: Annotated[float, Meta(ge=1, le=MAX_WAIT_SECONDS, extra={"syntax": "duration"})] = WAIT_SECONDS
        failure_refresh_rate: Backoff = Backoff(base=1.0, max=30.0)

    @staticmethod
    def validate(config: Config) -> Iterator[str]:
        """What types cannot say."""
        if config.address.is_unix:
            yield "expected the agent's HOST:PORT; UNIX sockets are not supported"
        yield from pace.rate_problems(config.failure_refresh_rate.base)

    def __init__(self, config: Config, context: Any) -> None:
        for problem in self.validate(config):
            raise ValueError(problem)
        self._config = config
        self._clock = context.clock
        findings = Findings(f"consul service {config.service} at {config.address}", context.clock, context.log)
        super().__init__(findings, Server(context.reactor, f"{config.scheme}://{config.address}", config.ca_file), context.log)
        self._path = f"/v1/health/service/{quote(config.service, safe='')}"
        self._backoff = pace.Backoff(config.failure_refresh_rate.base, config.failure_refresh_rate.max, random.random)

    async def _run(self) -> None:
        index = 0
        while self._findings.is_watching:
            try:
                index = await self._once(index)
                self._backoff.succeeded()
                wait = MIN_INTERVAL_SECONDS if index else POLL_SECONDS
            except CancelledError:
                raise
            except (FetchFailed, ValueError) as error:
                # Another server may answer next, whose index is another: the next query does not wait.
                index, wait = 0, self._backoff.failed()
                self._findings.failed(str(error))
            except Exception:
                self._log.failure("asking {source} failed", source=self._findings.source)
                index, wait = 0, self._backoff.failed()
                self._findings.failed("asking failed; the log tells why")
            await deferLater(self._clock, wait, lambda: None)

    async def _once(self, index: int) -> int:
        """One query; the index to wait after. Raises `FetchFailed` or `ValueError` with a sentence."""
        answer = await self._ask(index)
        if answer.status != 200:
            raise FetchFailed(f"the agent answered with status {answer.status}: {answer.body[:200].decode('utf-8', 'replace').strip()}")
        new = next_index(answer.field("x-consul-index"), index)
        if new and new == index:
            self._findings.confirmed()  # the wait was over
            return new
        answered: ConsulEndpoints = await in_turns(self._clock, parse(answer.body))
        more = len(answered.skipped) - 1
        self._findings.found(answered.endpoints, "".join(answered.skipped[:1]) + (f"; and {more} more" if more > 0 else ""))
        # An index that went back is asked from anew, at once.
        return new or (1 if index and answer.field("x-consul-index") else 0)

    def _ask(self, index: int) -> Deferred[Fetched]:
        config = self._config
        query: list[tuple[str, str]] = [("tag", tag) for tag in config.tags]
        for key, value in (("dc", config.datacenter), ("ns", config.namespace), ("partition", config.partition), ("filter", config.filter)):
            if value is not None:
                query.append((key, value))
        query += [("passing", "1")] if config.passing else []
        query += [("stale", "")] if config.stale else []
        deadline = GRACE_SECONDS
        if index:
            query += [("index", str(index)), ("wait", f"{config.wait:.0f}s")]
            deadline += config.wait * 17 / 16
        fields = {} if config.token_file is None else {"X-Consul-Token": read_token(config.token_file)}
        return self._server.fetch(f"{self._path}?{urlencode(query, quote_via=quote)}", fields, MAX_ANSWER_BYTES, deadline)
