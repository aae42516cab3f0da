"""The messages that codecs make and take, the same for HTTP/1.1 and HTTP/2: what stands behind a codec never asks for the version.

One direction of one exchange is a head, then body chunks (plain `bytes`), then an `End` with or without trailers. A head whose `end_stream`
is true has no body and no `End` after it. A response may be preceded by informational heads (status 1xx), each a `ResponseHead` of its own.

Heads are mutable on purpose: filters edit them in place; nothing else keeps them. They are structs because those are made three times as fast as other
objects, and unknown to the collector (`gc=False`) because nothing in them points back.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.headers import Headers


class RequestHead(msgspec.Struct, eq=False, gc=False):
    """A request's head.

    `method`: bytes as sent. `scheme`: b"http" or b"https". `authority`: host[:port] as the client meant it (from an absolute-form target if there is one,
    RFC 9112 section 3.2.2, else from Host or :authority); b"" only for an HTTP/1.0 request without Host. `path`: origin-form path with query, b"*" for the asterisk-form, b"" for
    CONNECT. `version`: 10, 11 or 20. `content_length`: octets announced, None when unknown (chunked, or HTTP/2 without the field). `end_stream`: no body follows.
    `upgrade`: the protocol asked for by `Upgrade` (or `:protocol`), lower-case, else None; a head with it is a candidate for a tunnel, as is the method CONNECT.
    `expects_continue`: the client waits for 100 (RFC 9110 section 10.1.1). `known`: the fields as a `codec.known.KnownFields` when others may be like them, else None; not to be changed.
    Headers exclude nothing but what the codec consumed: Transfer-Encoding and the Connection-listed and hop-by-hop fields are already removed.
    """

    method: bytes
    path: bytes
    authority: bytes
    headers: Headers
    version: int = 11
    scheme: bytes = b"http"
    content_length: int | None = 0
    end_stream: bool = True
    upgrade: bytes | None = None
    expects_continue: bool = False
    known: Any = None

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r} {self.authority!r} {self.path!r} {self.headers!r} length={self.content_length} end={self.end_stream}>"


class ResponseHead(msgspec.Struct, eq=False, gc=False):
    """A response's head.

    `status`: 100 to 999. `reason`: bytes, may be empty. `content_length`: octets announced or None (chunked, close-delimited); for a response to HEAD or a 304 it is what the
    header field says while `end_stream` is true. `upgrade`: for 101, the protocol switched to. Headers as in `RequestHead`.
    `known`: the codec's own, what it remembers of heads like this one.
    """

    status: int
    headers: Headers
    reason: bytes = b""
    version: int = 11
    content_length: int | None = None
    end_stream: bool = False
    upgrade: bytes | None = None
    known: Any = None

    @property
    def is_informational(self) -> bool:
        """100 to 199 except 101, which is final for HTTP and starts a tunnel (RFC 9110 section 15.2)."""
        return self.status < 200 and self.status != 101

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} {self.headers!r} length={self.content_length} end={self.end_stream}>"


class End(msgspec.Struct, eq=False, gc=False):
    """The end of a message with a body. `trailers` is None when there are none."""

    trailers: Headers | None = None

    def __repr__(self) -> str:
        return f"<End {self.trailers!r}>"


# The end without trailers: one object for all, codecs return this very one.
END = End()

RequestEvent = RequestHead | bytes | End
ResponseEvent = ResponseHead | bytes | End
