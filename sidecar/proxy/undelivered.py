"""Between two sidecars: nothing of this request reached the application, says the one beside it, so that the other one may send also a POST again, elsewhere.

The one in front of an application that is down answers 503 itself. To who called, that looks like an answer of the application, which may have carried the
request out. So the answer has a field more, with a value that both sidecars know and nobody else: it is derived from the TLS connection between them
(RFC 5705), which no application sees. An application that sends the field gains nothing. It is only sent to, and only believed of, a peer that has proved to
be a workload of the mesh, and holds for this one hop: who passes the answer on takes it off.
"""

from __future__ import annotations

from hmac import compare_digest

from sidecar.errors import UpstreamUndelivered
from sidecar.headers import field
from sidecar.message import ResponseHead
from sidecar.proxy.calls import PluginCalls

UNDELIVERED = b"x-sidecar-undelivered"


class UndeliveredWay(PluginCalls):
    """The part of `Exchange` that says so, and believes it."""

    __slots__ = ()

    def _mark_undelivered(self, head: ResponseHead) -> None:
        """This local reply is for an error that says that nothing was sent. Is that so of the whole exchange, and is the caller a sidecar that may know?"""
        tls = self.connection.tls
        if tls is not None and tls.mark and self._picked is None and (self._retry is None or not self._retry.had_company):
            head.headers.fields.append(field(UNDELIVERED, tls.mark))

    def _goes_elsewhere(self, head: ResponseHead) -> bool:
        """An answer that is a failure came: does it say that nothing was delivered, and is another attempt made because of that?"""
        mark = head.headers.get(UNDELIVERED)
        tls = self.upstream_tls
        if mark is None or tls is None or not tls.mark or not compare_digest(mark, tls.mark):
            return False
        head.headers.remove(UNDELIVERED)
        retry = self._retrying()
        if retry is None:
            return False
        if self._retries_response(retry, head, UpstreamUndelivered(f"{self.cluster_name} says that the request did not reach its application")):
            return True
        # It was decided on; what its status alone would be worth does not count.
        retry.statuses = ()
        return False
