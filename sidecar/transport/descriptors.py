"""File descriptors: how many this process may have, and how many of them clients may take.

A proxied connection needs two, the client's and the application's. Clients that took all of them would leave none to serve anybody with, so from half on they
wait in the kernel's queue instead.
"""

from __future__ import annotations

import sys

try:
    import resource
except ImportError:  # not on every system
    resource = None  # type: ignore[assignment]

# One in so many descriptors may be a client's: the others are for the connections to applications, and for files.
DESCRIPTORS_PER_CLIENT = 2


def raise_limit() -> None:
    """The process may have as many descriptors as its hard limit allows. The soft one is small for the sake of programs that use select(2)."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS says "unlimited" and takes less
            return


def client_descriptors() -> int:
    """From this number on descriptors are not for clients. The system gives the lowest that is free, so a descriptor's number tells how many are taken."""
    if resource is None:
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft // DESCRIPTORS_PER_CLIENT
