"""The Huffman code of RFC 7541, appendix B, decoded an octet at a time.

The code is canonical: shorter codes first, equal lengths in the order of their symbols. So the lengths alone give it, and `_SYMBOLS_BY_LENGTH` is all there is
to store. Decoding walks (state, octet) -> (next state, symbols). A state is the row of its 256 transitions, filled as they are met: 256 states have 65536
transitions, of which traffic uses a few thousand. The most an attacker can make us keep is all of them, about 6 MB for the process.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

EOS = 256

_SYMBOLS_BY_LENGTH: dict[int, bytes] = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\\xc3\xd0",
    20: bytes.fromhex("80 82 83 a2 b8 c2 e0 e2"),
    21: bytes.fromhex("99 a1 a7 ac b0 b1 b3 d1 d8 d9 e3 e5 e6"),
    22: bytes.fromhex("81 84 85 86 88 92 9a 9c a0 a3 a4 a9 aa ad b2 b5 b9 ba bb bd be c4 c6 e4 e8 e9"),
    23: bytes.fromhex("01 87 89 8a 8b 8c 8d 8f 93 95 96 97 98 9b 9d 9e a5 a6 a8 ae af b4 b6 b7 bc bf c5 e7 ef"),
    24: bytes.fromhex("09 8e 90 91 94 9f ab ce d7 e1 ec ed"),
    25: bytes.fromhex("c7 cf ea eb"),
    26: bytes.fromhex("c0 c1 c8 c9 ca cd d2 d5 da db ee f0 f2 f3 ff"),
    27: bytes.fromhex("cb cc d3 d4 d6 dd de df f1 f4 f5 f6 f7 f8 fa fb fc fd fe"),
    28: bytes.fromhex("02 03 04 05 06 07 08 0b 0c 0e 0f 10 11 12 13 14 15 17 18 19 1a 1b 1c 1d 1e 1f 7f dc f9"),
    30: bytes.fromhex("0a 0d 16"),  # and EOS, the last of all
}

# (row of transitions, symbols decoded). A row has 258 places: 256 transitions, the node it stands for, and whether the input may end here (section 5.2: at most
# 7 bits of padding, all ones). Any, because the type would be recursive.
Transition = tuple[list[Any], bytes]
_NODE, _MAY_END = 256, 257


def _codes() -> list[str]:
    """The code of each symbol and of EOS as a text of binary digits."""
    codes = [""] * 257
    code = previous = 0
    for length, symbols in _SYMBOLS_BY_LENGTH.items():
        for symbol in chain(symbols, (EOS,) if length == 30 else ()):
            code <<= length - previous
            previous = length
            codes[symbol] = format(code, f"0{length}b")
            code += 1
    return codes


_CODES = _codes()


def _tree() -> list[Any]:
    """The code as nested pairs; a leaf is its symbol."""
    root: list[Any] = [None, None]
    for symbol, code in enumerate(_CODES):
        node = root
        for digit in code[:-1]:
            bit = int(digit)
            if node[bit] is None:
                node[bit] = [None, None]
            node = node[bit]
        node[int(code[-1])] = symbol
    return root


_TREE = _tree()
_ROWS: dict[int, list[Any]] = {}  # id of a node -> its row


def _row(node: list[Any]) -> list[Any]:
    row = _ROWS.get(id(node))
    if row is None:
        row = _ROWS[id(node)] = [None] * 256 + [node, False]
    return row


_START = _row(_TREE)


def _mark_ends() -> None:
    node = _TREE
    for _ in range(8):
        _row(node)[_MAY_END] = True
        node = node[1]


_mark_ends()


def _transition(row: list[Any], octet: int) -> Transition:
    """Work out and keep where `octet` leads from `row`. Raises `ValueError` when EOS is met."""
    node = row[_NODE]
    symbols = bytearray()
    for shift in range(7, -1, -1):
        node = node[octet >> shift & 1]
        if isinstance(node, int):
            if node == EOS:
                raise ValueError("EOS stands in a Huffman-coded string")
            symbols.append(node)
            node = _TREE
    found = row[octet] = (_row(node), bytes(symbols))
    return found


# Strings decoded before: peers say the same names and dates again and again. Bounded in number and length, because peers choose them; then all are forgotten.
_DECODED: dict[bytes, bytes] = {}
_DECODED_LIMIT = 1024
_DECODED_OCTETS = 64


def decode(data: bytes) -> bytes:
    """The text of `data`. Raises `ValueError` for EOS inside, and for padding that is not the beginning of EOS or longer than 7 bits."""
    text = _DECODED.get(data)
    if text is not None:
        return text
    row = _START
    out = []
    for octet in data:
        transition = row[octet]
        if transition is None:
            transition = _transition(row, octet)
        row, symbols = transition
        out.append(symbols)
    if not row[_MAY_END]:
        raise ValueError("the padding of a Huffman-coded string is wrong")
    text = b"".join(out)
    if len(data) <= _DECODED_OCTETS:
        if len(_DECODED) >= _DECODED_LIMIT:
            _DECODED.clear()
        _DECODED[data] = text
    return text


def encode(text: bytes) -> bytes:
    """`text` in the Huffman code, padded with the beginning of EOS. Slow next to sending it as it is: for what is sent once and then referred to."""
    bits = "".join([_CODES[octet] for octet in text])
    length = (len(bits) + 7) // 8
    return int(bits.ljust(length * 8, "1"), 2).to_bytes(length, "big") if bits else b""
