"""`twistd sidecar`: options, and the service made of them. Imported by twistd only when this subcommand is used.

Installing the reactor happens here, when the options are made: twistd has then seen its own `--reactor` (and installed that), but nothing has imported a
reactor yet.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from sidecar.errors import ConfigError, SidecarError


class Options(usage.Options):
    """Options of `twistd sidecar`."""

    synopsis = "[--config FILE] [--plugin-dir DIR]..."
    longdesc = (
        "A service-mesh sidecar: mutual TLS, routing, policy and telemetry beside your application. The configuration is described in docs/configuration.md."
    )
    optParameters = [["config", "c", "sidecar.yaml", "the configuration file"]]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["plugin_dirs"] = []
        self["log_level"] = "info"

    def opt_plugin_dir(self, directory: str) -> None:
        """A directory with plugins of your own (repeatable)."""
        self["plugin_dirs"].append(os.path.abspath(directory))

    def opt_log_level(self, level: str) -> None:
        """debug, info, warn or error: what the sidecar says of itself (default info)."""
        if level not in ("debug", "info", "warn", "error"):
            raise usage.UsageError(f"no such log level: {level}; there are debug, info, warn and error")
        self["log_level"] = level

    def postOptions(self) -> None:
        """Check the file before anything starts: a wrong one never does. The reactor is chosen here."""
        parent: Any = self.parent or {}
        if self["log_level"] != "info" and (parent.get("logger") or parent.get("syslog")):
            raise usage.UsageError("--log-level works with --logfile and standard error; with --logger and --syslog the filter is theirs")
        install_reactor()
        from sidecar.config.load import load
        from sidecar.plugins import Finder

        self["config"] = os.path.abspath(self["config"])
        finder = Finder(self["plugin_dirs"])
        try:
            self["model"] = load(self["config"], finder)
        except ConfigError as error:
            for problem in error.problems:
                print(problem, file=sys.stderr)
            count = len(error.problems)
            print(f"sidecar: not started, {count} problem{'s' if count != 1 else ''} in the configuration", file=sys.stderr)
            raise SystemExit(1) from None
        except (SidecarError, OSError) as error:
            print(f"sidecar: not started: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        for warning in finder.problems():
            print(f"sidecar: warning: {warning}", file=sys.stderr)
        self["finder"] = finder


def install_reactor() -> None:
    """The `sidecar` reactor is in place unless another one is already (twistd's `--reactor`), or this system has no epoll."""
    if "twisted.internet.reactor" in sys.modules:
        return
    try:
        from sidecar.transport.reactor import install
    except ImportError:
        return
    install()


def makeService(options: Any) -> IService:
    """The service that twistd runs."""
    from twisted.internet import reactor

    from sidecar.service import SidecarService

    service: IService = SidecarService(reactor, options["model"], options["finder"], options["log_level"], getattr(options, "parent", None))
    return service
