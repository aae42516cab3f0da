"""Socket addresses as configuration names them: `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/app.sock`, `localhost:80`."""

from __future__ import annotations

import ipaddress

import attrs


@attrs.frozen(order=True, cache_hash=True)  # each set of endpoints is compared with others by their addresses
class Address:
    """Where to listen or connect: `host` and `port` for TCP, or `path` for a UNIX socket (then `host` is empty and `port` 0).

    `path` starting with "@" is in Linux's abstract namespace.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address written in `text`. Raises `ValueError` with a sentence that says what was expected."""
        if text.startswith("unix:"):
            path = text[5:]
            if not path or len(path.encode()) > 107:  # sun_path is 108 octets with its NUL
                raise ValueError(f"a UNIX socket path has 1 to 107 octets, {path!r} has {len(path.encode())}")
            if "\0" in path:
                raise ValueError(f"a UNIX socket path has no NUL in it, got {path!r}")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
            raise ValueError(f"expected HOST:PORT, [IPV6]:PORT or unix:/PATH, got {text!r}")
        if host.startswith("[") and host.endswith("]"):
            try:
                host = str(ipaddress.IPv6Address(host[1:-1].partition("%")[0])) + host[1:-1][len(host[1:-1].partition("%")[0]) :]
            except ValueError:
                raise ValueError(f"not an IPv6 address in brackets: {text!r}") from None
        elif ":" in host:
            raise ValueError(f"an IPv6 address needs brackets: [{host}]:{port}")
        if not host:
            raise ValueError(f"the host is missing in {text!r}; write 0.0.0.0:{port} or [::]:{port} for every address")
        return cls(host=host, port=int(port))

    @property
    def is_unix(self) -> bool:
        """A UNIX socket?"""
        return bool(self.path)

    @property
    def is_ip(self) -> bool:
        """A literal IPv4 or IPv6 address (nothing to resolve)?"""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def is_ipv6(self) -> bool:
        """A literal IPv6 address?"""
        return ":" in self.host

    @property
    def is_loopback(self) -> bool:
        """Reachable only from this host: a UNIX socket, `localhost` or a loopback address."""
        return self.is_unix or self.host == "localhost" or (self.is_ip and ipaddress.ip_address(self.host.partition("%")[0]).is_loopback)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
