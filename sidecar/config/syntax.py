"""The spellings that YAML has no types for: durations, sizes and environment variables.

Each has a way in and, where a configuration is written out again, a way out that gives the very same value back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?h)?([0-9]+(\.[0-9]+)?m)?([0-9]+(\.[0-9]+)?s)?([0-9]+(\.[0-9]+)?ms)?$"
SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)? ?(B|kB|KB|MB|GB|KiB|MiB|GiB)$"
ENVIRONMENT_NAME = r"[A-Za-z_][A-Za-z0-9_]*"

EXPECTED_DURATION = "a duration such as 250ms, 5s, 1m30s, 1h, or a number of seconds"
EXPECTED_SIZE = "a size such as 64KiB, 1MiB, 10MB, or a number of octets"

_DURATION = re.compile(DURATION_PATTERN)
_PART = re.compile(r"([0-9.]+)(ms|[hms])")
_UNIT_SECONDS = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(B|kB|KB|MB|GB|KiB|MiB|GiB)")
_UNIT_OCTETS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_REFERENCE = re.compile(rf"\$\$\{{|\$\{{(?P<name>{ENVIRONMENT_NAME})(?P<default>:-[^}}]*)?\}}|\$\{{")

VARIABLE = re.compile(rf"\$\{{({ENVIRONMENT_NAME})")


def parse_duration(text: str) -> float:
    """Seconds written as "250ms", "5s", "1m30s", "1h" (larger units first). Raises `ValueError` with what was expected."""
    if not text or _DURATION.fullmatch(text) is None:
        raise ValueError(f"expected {EXPECTED_DURATION}")
    return float(sum(Decimal(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(text)))


def format_duration(seconds: float) -> str | float:
    """A spelling that `parse_duration` reads as exactly `seconds`, in the largest unit that keeps it whole; the number itself when there is none."""
    for unit in ("h", "m", "s", "ms"):
        count = Decimal(repr(seconds)) / _UNIT_SECONDS[unit]
        if count == count.to_integral_value() and (count or unit == "s") and count < 10**9:
            text = f"{int(count)}{unit}"
            if parse_duration(text) == seconds:
                return text
    return seconds


def parse_size(text: str) -> int:
    """Octets written as "64KiB", "1.5MiB", "10MB" (KB, MB and GB are powers of ten). Raises `ValueError` with what was expected."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {EXPECTED_SIZE}")
    octets = Decimal(match[1]) * _UNIT_OCTETS[match[2]]
    if octets != octets.to_integral_value():
        raise ValueError("expected a whole number of octets")
    return int(octets)


def format_size(octets: int) -> str | int:
    """A spelling that `parse_size` reads as exactly `octets`: in a binary unit when it is a whole number of them, else the number."""
    for unit in ("GiB", "MiB", "KiB"):
        if octets and octets % _UNIT_OCTETS[unit] == 0:
            return f"{octets // _UNIT_OCTETS[unit]}{unit}"
    return octets


def expand_variables(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """`text` with `${NAME}` and `${NAME:-default}` replaced and `$${` turned into a literal `${`, and a sentence for each thing wrong.

    The default is taken when the variable is unset or empty, as in a shell. What a variable holds is not expanded again.
    """
    wrong: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            return "${"
        if name is None:
            wrong.append("expected ${NAME} or ${NAME:-default}; write $${ for a literal ${")
            return match[0]
        found = environ.get(name)
        if default is not None:
            return found or default[2:]
        if found is None:
            wrong.append(f"the environment variable {name} is not set; set it, or give a default: ${{{name}:-default}}")
            return ""
        return found

    return _REFERENCE.sub(replace, text), wrong


def escape_variables(text: str) -> str:
    """`text` written so that `expand_variables` gives it back as it is."""
    return text.replace("${", "$${")
