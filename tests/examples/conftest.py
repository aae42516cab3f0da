"""What the tests of the examples share."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.examples.processes import UnixHTTPServer


@pytest.fixture
def serve() -> Iterator[Callable[[Path, type[BaseHTTPRequestHandler]], None]]:
    """`serve(path, handler)`: an application at the UNIX socket `path` until the test ends."""
    with ExitStack() as servers:

        def begin(path: Path, handler: type[BaseHTTPRequestHandler]) -> None:
            server = servers.enter_context(UnixHTTPServer(str(path), handler))
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            servers.callback(server.shutdown)

        yield begin


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name is short enough for UNIX sockets."""
    with tempfile.TemporaryDirectory(prefix="sc-") as name:
        yield Path(name)
