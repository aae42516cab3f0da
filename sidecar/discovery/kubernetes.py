"""Kind `discovery`, name `kubernetes`: the endpoints of a Service by its EndpointSlices, listed once and then watched."""

from __future__ import annotations

import os
import random
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from msgspec import Meta, Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from sidecar.discovery.asking import Asking
from sidecar.discovery.files import read_bounded, read_token
from sidecar.discovery.findings import Findings
from sidecar.discovery.http import Fetched, FetchFailed, Server
from sidecar.discovery.steps import in_turns
from sidecar.interfaces import IDiscovery
from sidecar.model import Backoff, Duration
from sidecar.naming import pace
from sidecar.naming.kubernetes import AddressFamily, Event, Slice, Slices, parse_event, parse_page, parse_refusal

# What Kubernetes mounts into every pod.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PAGE_ITEMS = 50  # slices in one piece of a list: 5000 endpoints of the usual slices, decoded in a few milliseconds
MAX_LIST_BYTES = 64 * 1024 * 1024  # all pieces together: a hundred thousand endpoints; 50 of the largest slices (1000 each) have 25 MiB
MAX_PAGES = 1000  # pieces of one list: a server that always has one more would be asked for ever
MAX_EVENT_BYTES = 4 * 1024 * 1024  # the largest slice has half a MiB; an object in etcd has at most 1.5 MiB
LIST_SECONDS = 30.0  # for one piece of a list, and for the head of a watch, which is there before its first event
# For how long one watch is asked: by chance, so that not all sidecars come back together after the API server was restarted (client-go: 5 to 10 minutes).
WATCH_SECONDS = 300
GRACE_SECONDS = 30.0  # the server ends a watch by itself; if it does not, we do
# A watch in which nothing comes for so long is given up: an API server sends a bookmark about every minute (watch cache of kube-apiserver), so two of them are
# missing. TCP's keep-alive does not tell of a server that hangs: its kernel answers. Nothing shorter than `MIN_SILENCE_SECONDS` can be asked for.
SILENCE_SECONDS = 150.0
MIN_SILENCE_SECONDS = 75.0
# A watch that ends sooner and without an event was no watch: then we wait longer each time.
SHORT_SECONDS = 1.0
# After so many failures in a row the list is asked for anew: a server that was restored from a backup may refuse for ever to go on from what we know.
RELIST_FAILURES = 3


class _Gone(Exception):
    """What we know is too old to go on from (410 Gone)."""


@implementer(IDiscovery)
class Kubernetes(Asking):
    """Asks a Kubernetes API server. Made with `(config, context)`."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`service`, `namespace` (ours by default). `port`: the name or number of one of its ports; unset for the only one. `selector`: instead of the label
        that names the service. `region`: of the endpoints' localities, ours by default. `server`, `token_file`, `ca_file`: by default those that every pod is
        given; `token_file` is read for each request. `silence_timeout`: how long a watch may bring nothing, not even a bookmark; 0: until it ends."""

        service: Annotated[str, Meta(min_length=1, max_length=253)]
        namespace: str | None = None
        port: int | str | None = None
        selector: str | None = None
        address_type: AddressFamily = "auto"
        region: str | None = None
        server: str | None = None
        token_file: Path | None = None
        ca_file: Path | None = None
        failure_refresh_rate: Backoff = Backoff(base=1.0, max=30.0)
        silence_timeout: Duration = SILENCE_SECONDS

    @staticmethod
    def validate(config: Config) -> Iterator[str]:
        """What types cannot say."""
        if config.server is not None and not config.server.startswith(("https://", "http://")):
            yield f"expected `server` to be http://HOST:PORT or https://HOST:PORT, got {config.server!r}"
        yield from pace.rate_problems(config.failure_refresh_rate.base)
        if 0 < config.silence_timeout < MIN_SILENCE_SECONDS:
            yield f"bookmarks come about every minute: expected a silence_timeout of at least {MIN_SILENCE_SECONDS:g} s, got {config.silence_timeout:g} s"

    def __init__(self, config: Config, context: Any, environ: Mapping[str, str] = os.environ, account: Path = ACCOUNT) -> None:
        for problem in self.validate(config):
            raise ValueError(problem)
        base = config.server or _in_cluster(environ)
        self._clock = context.clock
        self._token_file = config.token_file or (account / "token" if config.server is None else None)
        ca_file = config.ca_file or (account / "ca.crt" if config.server is None else None)
        namespace = config.namespace or _own_namespace(account) or context.node.namespace
        findings = Findings(f"kubernetes service {config.service}.{namespace}", context.clock, context.log)
        super().__init__(findings, Server(context.reactor, base, ca_file), context.log)
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{quote(namespace, safe='')}/endpointslices"
        self._selector = config.selector or f"kubernetes.io/service-name={config.service}"
        own = context.node.locality
        region = config.region if config.region is not None else own.region if own is not None else ""
        self._slices = Slices(config.port, config.address_type, region)
        self._backoff = pace.Backoff(config.failure_refresh_rate.base, config.failure_refresh_rate.max, random.random)
        self._version = ""
        self._silence = config.silence_timeout
        self._quiet: Any = None  # the timer of a watch
        self._has_bookmarks = False
        self._silent_watches = 0  # in a row, of a server that sends no bookmarks

    # -- list, then watch --------------------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._findings.is_watching:
            wait = 0.0
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except CancelledError:
                raise
            except _Gone:
                # No failure: it happens whenever a watch was away for minutes. What is known stays until the new list is whole.
                self._version, wait = "", self._backoff.failed()
                self._log.info("{source}: listing anew, what was known is too old to go on from", source=self._findings.source)
            except FetchFailed as error:
                wait = self._backoff.failed()
                if self._backoff.failures >= RELIST_FAILURES:
                    self._version = ""
                self._findings.failed(str(error))
            except ValueError as error:
                # Something was not understood, so what it would have told is not known.
                self._version, wait = "", self._backoff.failed()
                self._findings.failed(str(error))
            except Exception:
                self._log.failure("asking {source} failed", source=self._findings.source)
                self._version, wait = "", self._backoff.failed()
                self._findings.failed("asking failed; the log tells why")
            await deferLater(self._clock, wait, lambda: None)

    async def _list(self) -> None:
        """All slices, piece by piece. Raises `FetchFailed`, `ValueError` or `_Gone` (of a list that took too long)."""
        slices: list[Slice] = []
        more = ""
        left = MAX_LIST_BYTES
        for _ in range(MAX_PAGES):
            query = {"labelSelector": self._selector, "limit": str(PAGE_ITEMS)} | ({"continue": more} if more else {})
            answer = await self._server.fetch(self._url(query), self._fields(), left, LIST_SECONDS)
            self._check(answer)
            left -= len(answer.body)
            page = parse_page(answer.body)
            slices += page.slices
            more = page.more
            if not more:
                break
            await deferLater(self._clock, 0, lambda: None)
        else:
            raise ValueError(f"the list has more than {MAX_PAGES} pieces")
        if not page.version:
            raise ValueError("the list has no resourceVersion to watch from")
        await in_turns(self._clock, self._slices.replaced(slices))
        self._version = page.version
        self._backoff.succeeded()
        self._tell()

    async def _watch(self) -> None:
        """One watch from where we are, to its end. Raises `FetchFailed`, `ValueError` or `_Gone`."""
        seconds = int(WATCH_SECONDS * (1 + random.random()))
        query = {
            "labelSelector": self._selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(seconds),
        }
        begun, before = self._clock.seconds(), self._version
        if await self._followed(self._url(query), seconds + GRACE_SECONDS):
            self._fell_silent()
            return
        if self._version == before and self._clock.seconds() - begun < SHORT_SECONDS:
            raise FetchFailed("the watch ended as soon as it had begun")
        self._silent_watches = 0
        self._backoff.succeeded()

    async def _followed(self, url: str, deadline: float) -> bool:
        """Follow a watch to its end, or until it was silent for too long: then True. Raises as `_watch`."""
        following = self._server.follow(url, self._fields(), MAX_EVENT_BYTES, deadline, self._events, LIST_SECONDS)
        given_up: list[bool] = []

        def give_up() -> None:
            given_up.append(True)
            following.cancel()

        if self._silence:
            self._quiet = self._clock.callLater(self._silence, give_up)
        try:
            self._check(await following)
        except CancelledError:
            if not given_up:
                raise
        finally:
            if self._quiet is not None and self._quiet.active():
                self._quiet.cancel()
        return bool(given_up)

    def _fell_silent(self) -> None:
        """Without bookmarks a watch may be silent for good reasons, so the next one goes on; but not for ever. Raises `FetchFailed` where they had come: the
        list, which is asked for next, tells what a server that hung has kept to itself.
        """
        if self._has_bookmarks:
            self._has_bookmarks, self._version = False, ""
            raise FetchFailed(f"nothing came for {self._silence:g} s, not even a bookmark")
        self._silent_watches += 1
        if self._silent_watches >= RELIST_FAILURES:
            self._silent_watches, self._version = 0, ""

    def _events(self, lines: list[bytes]) -> Deferred[None]:
        """Take up a batch of events; the stream waits."""
        if self._quiet is not None and self._quiet.active():
            self._quiet.reset(self._silence)

        def take() -> Generator[None, None, None]:
            for line in lines:
                event = parse_event(line)
                yield from self._taken(event)
                if event.version:
                    self._version = event.version
                yield

        return in_turns(self._clock, take()).addCallback(lambda _: self._tell())

    def _taken(self, event: Event) -> Generator[None, None, None]:
        if event.kind == "put" and event.slice is not None:
            yield from self._slices.put(event.slice)
        elif event.kind == "delete" and event.slice is not None:
            self._slices.delete(event.slice)
        elif event.kind == "bookmark":
            self._has_bookmarks = True
        elif event.kind == "refused":
            if event.code == 410:
                raise _Gone
            raise FetchFailed(f"the watch was refused: {event.message}")

    def _tell(self) -> None:
        self._findings.found(self._slices.endpoints(), next(iter(self._slices.problems.values()), ""))

    # -- asking ------------------------------------------------------------------------------------------------------------------------------

    def _url(self, query: Mapping[str, str]) -> str:
        return f"{self._path}?{urlencode(query, quote_via=quote)}"

    def _fields(self) -> dict[str, bytes]:
        fields = {"Accept": b"application/json"}
        if self._token_file is not None:
            try:
                fields["Authorization"] = b"Bearer " + read_token(self._token_file)
            except ValueError as error:
                raise FetchFailed(str(error)) from None
        return fields

    def _check(self, answer: Fetched) -> None:
        if answer.status == 410:
            raise _Gone
        if answer.status != 200:
            hint = "; may this service account get, list and watch endpointslices?" if answer.status in (401, 403) else ""
            raise FetchFailed(f"the API server answered with status {answer.status}: {parse_refusal(answer.body, answer.status)}{hint}")


def _in_cluster(environ: Mapping[str, str]) -> str:
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ValueError("`server` is missing, and this is no pod: KUBERNETES_SERVICE_HOST is not set")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _own_namespace(account: Path) -> str:
    try:
        return read_bounded(account / "namespace", 1024).decode().strip()
    except ValueError:
        return ""
