"""Reads the table files beside the tests: one row a line, columns between ` | `, octets escaped as in Python."""

from __future__ import annotations

from pathlib import Path

_ABBREVIATIONS = {
    "{HOST}": "Host: a\r\n",
    "{POST}": "POST / HTTP/1.1\r\nHost: a\r\n",
    "{CHUNKED}": "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "{OK}": "HTTP/1.1 200 OK\r\n",
}


def rows(name: str) -> list[list[str]]:
    """The rows of a table, each a list of its columns as text."""
    text = (Path(__file__).parent / "rows" / f"{name}.txt").read_text("ascii")
    return [[column.lstrip(" ") if index else column for index, column in enumerate(line.split(" |"))] for line in text.splitlines() if line and line[0] != "#"]


def octets(column: str) -> bytes:
    """The bytes that a column stands for."""
    for short, long in _ABBREVIATIONS.items():
        column = column.replace(short, long)
    return column.encode("ascii").decode("unicode_escape").encode("latin-1")
