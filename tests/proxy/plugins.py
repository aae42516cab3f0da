"""Plugins that tests drive: each hook does what a script says."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from sidecar.interfaces import (
    IRequestBodyHook,
    IRequestHeadHook,
    IRequestTrailersHook,
    IResponseBodyHook,
    IResponseHeadHook,
    IResponseTrailersHook,
)
from sidecar.verdicts import OBSERVE


class Scripted:
    """`answers`: what the hook answers, one after the other, then None; an exception is raised, a function is called with the hook's arguments."""

    def __init__(self, *answers: Any, mode: Any = OBSERVE) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[Any, ...]] = []
        self.request_body_mode = self.response_body_mode = mode

    def answer(self, *args: Any) -> Any:
        self.calls.append(args[1:])
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer(*args) if callable(answer) else answer


@implementer(IRequestHeadHook)
class RequestHeadPlugin(Scripted):
    """Sees the request's head."""

    def request_head(self, exchange: Any) -> Any:
        return self.answer(exchange)


@implementer(IRequestBodyHook)
class RequestBodyPlugin(Scripted):
    """Sees the request's body."""

    def request_body(self, exchange: Any, chunk: bytes, end: bool) -> Any:
        return self.answer(exchange, chunk, end)


@implementer(IRequestTrailersHook)
class RequestTrailersPlugin(Scripted):
    """Sees the request's trailers."""

    def request_trailers(self, exchange: Any, trailers: Any) -> Any:
        return self.answer(exchange, trailers)


@implementer(IResponseHeadHook)
class ResponseHeadPlugin(Scripted):
    """Sees the response's head."""

    def response_head(self, exchange: Any) -> Any:
        return self.answer(exchange)


@implementer(IResponseBodyHook)
class ResponseBodyPlugin(Scripted):
    """Sees the response's body."""

    def response_body(self, exchange: Any, chunk: bytes, end: bool) -> Any:
        return self.answer(exchange, chunk, end)


@implementer(IResponseTrailersHook)
class ResponseTrailersPlugin(Scripted):
    """Sees the response's trailers."""

    def response_trailers(self, exchange: Any, trailers: Any) -> Any:
        return self.answer(exchange, trailers)


HEAD_HOOKS = (RequestHeadPlugin, ResponseHeadPlugin)
BODY_HOOKS = (RequestBodyPlugin, ResponseBodyPlugin)
TRAILER_HOOKS = (RequestTrailersPlugin, ResponseTrailersPlugin)
EVERY_HOOK = (*HEAD_HOOKS, *BODY_HOOKS, *TRAILER_HOOKS)
