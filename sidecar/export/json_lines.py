"""Values as JSON on one line of a log, whatever clients and plugins put into them."""

from __future__ import annotations

import json
import re

import msgspec

# Beyond ASCII controls, which JSON escapes: the C1 controls, of which terminals obey some (U+009B begins a sequence as ESC [ does) and readers of lines one
# (U+0085), the separators U+2028 and U+2029, and what turns the direction of text. In UTF-8.
_OBEYED = re.compile(rb"\xc2[\x80-\x9f]|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
# What JSON has no form for, put into a note by a plugin, say, is shown as Python shows it: better than no line.
_encode = msgspec.json.Encoder(enc_hook=repr).encode


def json_line(value: object) -> bytes:
    """`value` as JSON without a line end. A client chooses parts of it: none of its characters does anything to who looks at the line."""
    try:
        encoded = _encode(value)
    except UnicodeEncodeError:  # half of a surrogate pair: no text of a client's, so a plugin's
        encoded = json.dumps(msgspec.to_builtins(value, enc_hook=repr), separators=(",", ":")).encode("ascii")
    return encoded if encoded.isascii() else _OBEYED.sub(_escaped, encoded)


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())
