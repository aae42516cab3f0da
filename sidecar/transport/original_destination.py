"""Where a redirected connection meant to go: netfilter's answer for sockets that an iptables REDIRECT or DNAT rule sent to us. Linux only; elsewhere the answer
is None."""

from __future__ import annotations

import socket
import struct
import sys

from sidecar.address import Address
from sidecar.transport.sockets import address_of

# linux/netfilter_ipv4.h: SO_ORIGINAL_DST, linux/netfilter_ipv6/ip6_tables.h: IP6T_SO_ORIGINAL_DST. Both answer with a struct sockaddr.
_ORIGINAL_DST = 80
_SOCKADDR_IN_BYTES = 16
_SOCKADDR_IN6_BYTES = 28


def original_destination(skt: socket.socket) -> Address | None:
    """The address the peer of the accepted `skt` connected to before a redirection; None when there was none, or it cannot be known."""
    if sys.platform != "linux":
        return None
    try:
        if skt.family == socket.AF_INET:
            found = parse_sockaddr(skt.getsockopt(socket.SOL_IP, _ORIGINAL_DST, _SOCKADDR_IN_BYTES))
        elif skt.family == socket.AF_INET6:
            found = parse_sockaddr(skt.getsockopt(socket.IPPROTO_IPV6, _ORIGINAL_DST, _SOCKADDR_IN6_BYTES))
        else:
            return None
        # Connection tracking also knows connections that nobody redirected.
        return None if found == address_of(skt.getsockname()) else found
    except OSError:
        return None


def parse_sockaddr(raw: bytes) -> Address | None:
    """The `Address` in a `struct sockaddr_in` or `sockaddr_in6`; None for another family or too few octets."""
    if len(raw) < _SOCKADDR_IN_BYTES:
        return None
    (family,) = struct.unpack_from("=H", raw)
    (port,) = struct.unpack_from("!H", raw, 2)
    if family == socket.AF_INET:
        return Address(host=socket.inet_ntop(socket.AF_INET, raw[4:8]), port=port)
    if family == socket.AF_INET6 and len(raw) >= _SOCKADDR_IN6_BYTES:
        host = socket.inet_ntop(socket.AF_INET6, raw[8:24])
        (scope,) = struct.unpack_from("=I", raw, 24)
        return Address(host=f"{host}%{scope}" if scope else host, port=port)
    return None
