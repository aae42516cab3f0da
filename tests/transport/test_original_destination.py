"""The original destination: netfilter's answer read right, and None wherever there is none."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

import pytest

from sidecar.address import Address
from sidecar.transport.original_destination import original_destination, parse_sockaddr


def test_sockaddrs() -> None:
    """Both families are understood; what is neither is None."""
    v4 = struct.pack("=H", socket.AF_INET) + struct.pack("!H", 8080) + socket.inet_aton("10.1.2.3") + bytes(8)
    assert parse_sockaddr(v4) == Address(host="10.1.2.3", port=8080)
    v6 = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", 443, 0) + socket.inet_pton(socket.AF_INET6, "fd00::1") + bytes(4)
    assert parse_sockaddr(v6) == Address(host="fd00::1", port=443)
    assert parse_sockaddr(v6[:-4] + struct.pack("=I", 3)) == Address(host="fd00::1%3", port=443)
    assert parse_sockaddr(v6[:20]) is None
    assert parse_sockaddr(b"") is None
    assert parse_sockaddr(struct.pack("=H", socket.AF_UNIX) + bytes(30)) is None


class Redirected:
    """An accepted socket that came to port 15001 and was meant for port 80."""

    family = socket.AF_INET
    meant_for = 80

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.SOL_IP, 80)
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H", self.meant_for) + socket.inet_aton("10.1.2.3") + bytes(8)

    def getsockname(self) -> Any:
        return ("10.1.2.3", 15001)


@pytest.mark.skipif(sys.platform != "linux", reason="asks netfilter")
def test_a_redirection_is_seen() -> None:
    """The address before the redirection is the answer; a tracked connection that was not redirected has none."""
    skt: Any = Redirected()
    assert original_destination(skt) == Address(host="10.1.2.3", port=80)
    skt.meant_for = 15001
    assert original_destination(skt) is None


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_direct_connection_has_none(family: int) -> None:
    """A connection that nobody redirected was meant for us."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as server, socket.create_connection(server.getsockname()[:2]):
        accepted, _ = server.accept()
        with accepted:
            assert original_destination(accepted) is None


def test_unix_and_other_systems_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only TCP on Linux can be asked."""
    near, far = socket.socketpair()
    with near, far:
        assert original_destination(near) is None
    monkeypatch.setattr(sys, "platform", "darwin")
    redirected: Any = Redirected()
    assert original_destination(redirected) is None
