"""Header fields, edited on both ways."""

from __future__ import annotations

from typing import Any

import msgspec
from zope.interface import implementer

from sidecar.interfaces import IRequestHeadHook, IResponseHeadHook
from sidecar.model import HeaderOps
from sidecar.routing.header_ops import compile_ops


@implementer(IRequestHeadHook, IResponseHeadHook)
class HeaderEdits:
    """Filter `headers`: removes, sets and adds fields of the request before it goes up and of the response, also of local replies, before it goes down."""

    class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """`request`, `response`: see `sidecar.model.HeaderOps`."""

        request: HeaderOps = HeaderOps()
        response: HeaderOps = HeaderOps()

        def __post_init__(self) -> None:
            """Raises `ValueError` for a field that may not be edited, so that `sidecar check` finds it."""
            compile_ops(self.request)
            compile_ops(self.response)

    def __init__(self, config: Config, context: object) -> None:
        self._request = compile_ops(config.request)
        self._response = compile_ops(config.response)

    def request_head(self, exchange: Any) -> None:
        """See `IRequestHeadHook`."""
        if self._request is not None:
            self._request(exchange.request.headers)

    def response_head(self, exchange: Any) -> None:
        """See `IResponseHeadHook`."""
        if self._response is not None:
            self._response(exchange.response.headers)
