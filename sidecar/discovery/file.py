"""Kind `discovery`, name `file`: endpoints from a JSON or YAML file that is watched for change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from sidecar.discovery.files import read_bounded
from sidecar.discovery.findings import Changed, Findings
from sidecar.discovery.steps import in_turns
from sidecar.discovery.watched import WatchedFile
from sidecar.interfaces import IDiscovery
from sidecar.model import Endpoint
from sidecar.naming.endpoint_file import parse

POLL_SECONDS = 1.0  # where nothing tells of changes
MAX_FILE_BYTES = 16 * 1024 * 1024  # a hundred thousand endpoints; more is a wrong path


@implementer(IDiscovery)
class EndpointFile:
    """The endpoints in a file. Made with `(config, context)`."""

    class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`path`: the file. `watch`: "auto" (inotify where the system has it) or "poll". `poll_interval`: how often it is looked at without inotify."""

        path: Path
        watch: Literal["auto", "poll"] = "auto"
        poll_interval: Annotated[float, Meta(ge=0.01, extra={"syntax": "duration"})] = POLL_SECONDS

    def __init__(self, config: Config, context: Any) -> None:
        self._path = config.path
        self._clock = context.clock
        self._log = context.log
        self._findings = Findings(str(config.path), context.clock, context.log)
        self._file = WatchedFile(config.path, config.poll_interval, config.watch == "poll", context.clock, context.log, self._read)
        self._parsing: Deferred[tuple[Endpoint, ...]] | None = None

    def watch(self, changed: Changed) -> Deferred[None]:
        """See `IDiscovery`. A file that is there and broken is an answer: the first one is then given up at once. One that is not there yet is waited for."""
        first = self._findings.begin(changed)
        self._file.start()
        self._read()
        return first

    def stop(self) -> None:
        """See `IDiscovery`."""
        self._file.stop()
        self._findings.stop()
        self._end_parsing()

    def snapshot(self) -> dict[str, Any]:
        """See `IDiscovery`."""
        return self._findings.snapshot()

    def _read(self) -> None:
        self._end_parsing()
        try:
            content = read_bounded(self._path, MAX_FILE_BYTES)
        except ValueError as error:
            self._findings.failed(str(error))
            return
        self._parsing = in_turns(self._clock, parse(content))
        self._parsing.addCallbacks(self._findings.found, self._refused)

    def _refused(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(ValueError) is None:
            self._log.failure("{path} could not be read", failure, path=str(self._path))
        self._findings.failed(f"{self._path}:{failure.getErrorMessage()}")
        self._findings.give_up()

    def _end_parsing(self) -> None:
        parsing, self._parsing = self._parsing, None
        if parsing is not None:
            parsing.cancel()
