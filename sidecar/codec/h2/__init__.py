"""HTTP/2 (RFC 9113, 7541, 8441), sans-io: `connection.H2Connection` takes and gives bytes on one side, messages on the other."""
