"""Header fields as the data path carries them: parsed once, forwarded as they came.

A field is a plain tuple `(name, value, line)`: the lower-case name for lookups, the value without surrounding white space,
and the rendered HTTP/1.1 line (`b"Host: a\\r\\n"`, the sender's spelling kept), so that forwarding an unchanged field costs no formatting.
HTTP/2 code uses the first two and ignores the third.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

# (lower-case name, value, b"Name: value\r\n")
Field = tuple[bytes, bytes, bytes]

# RFC 9110, section 5.6.2 (token) and 5.5 (field-value: VCHAR, obs-text, SP, HTAB; never CR, LF, NUL, which split responses).
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"(?:[^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?")


def field(name: bytes, value: bytes) -> Field:
    """One checked field. `name` in the spelling to send, `value` without surrounding white space.

    Raises `ValueError` for anything RFC 9110, section 5, does not allow: a plugin cannot split a message by a value.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"not a field name: {name!r}")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"not a value for the field {name.decode('ascii')}: {value!r}")
    return name.lower(), value, b"%b: %b\r\n" % (name, value)


class Headers(msgspec.Struct, eq=False, gc=False):
    """The fields of one message, in order, repeated fields kept apart. Names given to the methods are lower-case bytes.

    `fields` may be read and replaced directly by code on the data path; everybody else uses the methods, which check what they are given.
    """

    fields: list[Field] = []

    @classmethod
    def of(cls, pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Checked fields from (name, value) pairs. Raises `ValueError` as `field` does."""
        return cls([field(name, value) for name, value in pairs])

    def get(self, name: bytes, default: bytes | None = None) -> bytes | None:
        """The first value of `name`, or `default`."""
        for each in self.fields:
            if each[0] == name:
                return each[1]
        return default

    def get_all(self, name: bytes) -> list[bytes]:
        """All values of `name`, in order; empty when there is none."""
        return [each[1] for each in self.fields if each[0] == name]

    def __contains__(self, name: object) -> bool:
        # A loop, because the generator of `any` would cost more than the looking.
        for each in self.fields:  # noqa: SIM110
            if each[0] == name:
                return True
        return False

    def __len__(self) -> int:
        return len(self.fields)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """(lower-case name, value) pairs in order."""
        return ((each[0], each[1]) for each in self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and [f[:2] for f in self.fields] == [f[:2] for f in other.fields]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({[each[:2] for each in self.fields]!r})"

    def add(self, name: bytes, value: bytes) -> None:
        """Append a field, beside others of its name. `name` in the spelling to send."""
        self.fields.append(field(name, value))

    def set(self, name: bytes, value: bytes) -> None:
        """Leave exactly one field of this name, in the place of the first one or at the end."""
        new = field(name, value)
        for index, each in enumerate(self.fields):
            if each[0] == new[0]:
                self.fields[index:] = [new, *(f for f in self.fields[index + 1 :] if f[0] != new[0])]
                return
        self.fields.append(new)

    def remove(self, name: bytes) -> int:
        """Take every field of `name` out; the number taken."""
        before = len(self.fields)
        self.fields = [each for each in self.fields if each[0] != name]
        return before - len(self.fields)

    def copy(self) -> Headers:
        """An independent copy (fields themselves are immutable)."""
        return Headers(self.fields.copy())
