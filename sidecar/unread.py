"""Bytes that are no request are answered, recorded and counted like requests."""

from __future__ import annotations

from typing import Any

from sidecar.errors import SidecarError
from sidecar.headers import Headers
from sidecar.message import RequestHead
from sidecar.proxy import replies
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.http import HTTPRuntime


def refuse_unread(http: HTTPRuntime, caller: Any, connection: Any, error: SidecarError, now: float, request: RequestHead | None = None) -> tuple[Any, bytes]:
    """The reply to bytes that are no request; it is recorded and counted like any other exchange. `request`: what of it is known all the same."""
    http.bad_requests += 1
    unread = request or RequestHead(b"-", b"-", b"", Headers(), version=11)
    exchange = Exchange(http, caller, _Nobody(), unread, now)
    exchange.fail(error)
    return replies.error_reply(error, request)


class _Nobody:
    """The downstream of an exchange that has no request: takes everything."""

    class timer:
        """Never set."""

        @staticmethod
        def clear() -> None:
            """Nothing."""

    def send_head(self, head: object) -> None:
        """Nothing."""

    def send_data(self, chunk: bytes) -> None:
        """Nothing."""

    def send_end(self, trailers: object) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def release(self) -> None:
        """Nothing."""
