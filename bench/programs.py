"""The system's programs: where they are, and the parts of a configuration that more than one of them is given."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FOREVER = 1_000_000_000  # requests on one connection: closing and opening is not measured
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])  # where Debian keeps servers


def program(name: str) -> str | None:
    """The path of an installed program, of the system's directories too."""
    return shutil.which(name, path=SYSTEM_PATH)


def nginx_configuration(directory: Path, name: str, access_log: str, server: str) -> str:
    """A whole nginx configuration: one process that is its own worker, all its files in `directory`."""
    temporary = " ".join(f"{each}_temp_path {directory}/{name}-{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""
daemon off;
master_process off;
pid {directory}/{name}.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log {access_log};
    {temporary}
    keepalive_requests {FOREVER};
    keepalive_timeout 1h;
    {server}
}}
"""
