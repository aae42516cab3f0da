"""The few calls into OpenSSL that happen for each record.

pyOpenSSL's own `recv` and `send` allocate a buffer and ask for errors each time, 2 and 1.3 microseconds more than the calls themselves. Its cffi library object
lets us make the same calls and leave all that is not straight on to pyOpenSSL. It is not a public interface: where a name is missing the public methods do it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from OpenSSL import SSL

# The most a TLS record can hold (RFC 8446, section 5.1).
RECORD_BYTES = 16 * 1024

Read = Callable[[SSL.Connection], bytes]
Write = Callable[[SSL.Connection, "bytes | memoryview"], int]


def _direct_calls() -> tuple[Read, Write]:
    library: Any = SSL._lib  # type: ignore[attr-defined]
    ffi: Any = SSL._ffi  # type: ignore[attr-defined]
    ssl_read, ssl_write = library.SSL_read, library.SSL_write
    buffer_of, from_buffer = ffi.buffer, ffi.from_buffer
    # One for all: between filling it and copying out of it nothing else runs.
    space = ffi.new("char[]", RECORD_BYTES)

    def read(tls: Any) -> bytes:
        """The next record's octets. Raises what `SSL.Connection.recv` raises."""
        size = ssl_read(tls._ssl, space, RECORD_BYTES)
        if size > 0:
            return buffer_of(space, size)[:]  # type: ignore[no-any-return]
        tls._raise_ssl_error(tls._ssl, size)
        raise SSL.WantReadError

    def write(tls: Any, data: bytes | memoryview) -> int:
        """How many octets of `data` (at least one) went out: at most a record's. Raises what `SSL.Connection.send` raises."""
        size = ssl_write(tls._ssl, data if data.__class__ is bytes else from_buffer(data), len(data))
        if size > 0:
            return size  # type: ignore[no-any-return]
        tls._raise_ssl_error(tls._ssl, size)
        raise SSL.WantWriteError

    return read, write


def _public_calls() -> tuple[Read, Write]:
    def read(tls: SSL.Connection) -> bytes:
        return tls.recv(RECORD_BYTES)

    def write(tls: SSL.Connection, data: bytes | memoryview) -> int:
        return tls.send(data)

    return read, write


def _has_direct_calls() -> bool:
    library, ffi = getattr(SSL, "_lib", None), getattr(SSL, "_ffi", None)
    names = hasattr(library, "SSL_read") and hasattr(library, "SSL_write") and hasattr(ffi, "from_buffer")
    return names and hasattr(SSL.Connection, "_raise_ssl_error")


read_record, write_records = _direct_calls() if _has_direct_calls() else _public_calls()


def keep_buffers(tls: SSL.Connection) -> None:
    """This connection's record buffers stay with it from record to record, whatever its context says (SSL_MODE_RELEASE_BUFFERS)."""
    clear = getattr(getattr(SSL, "_lib", None), "SSL_clear_mode", None)
    if clear is not None:
        clear(cast(Any, tls)._ssl, SSL.MODE_RELEASE_BUFFERS)


def forget_errors() -> None:
    """OpenSSL's error queue, one for the thread, is empty: what one connection left there must not be taken for another one's error."""
    clear = getattr(getattr(SSL, "_lib", None), "ERR_clear_error", None)
    if clear is not None:
        clear()


def verify_problem(tls: SSL.Connection) -> tuple[int, str]:
    """Why the peer's certificate was refused: OpenSSL's number and text; (0, "") when it was not, or it cannot be known."""
    library: Any = getattr(SSL, "_lib", None)
    if not hasattr(library, "SSL_get_verify_result") or not hasattr(library, "X509_verify_cert_error_string"):
        return 0, ""
    code = library.SSL_get_verify_result(cast(Any, tls)._ssl)
    if not code:
        return 0, ""
    return code, cast(Any, SSL)._ffi.string(library.X509_verify_cert_error_string(code)).decode()
