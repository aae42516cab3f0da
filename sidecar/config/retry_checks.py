"""What must hold within a route's retries and hedging beyond the types. See `sidecar.config.checks`."""

from __future__ import annotations

from sidecar.config.convert import Check, Record
from sidecar.headers import field
from sidecar.matching import compile_header_match
from sidecar.model import Backoff, Hedge, Retry

CONDITIONS = ("on", "retriable_statuses", "retriable_headers")
# A condition by itself means nothing without the list that goes with it.
LISTS = {"retriable-status-codes": "retriable_statuses", "retriable-headers": "retriable_headers"}


def retry(record: Record) -> None:
    """Something can be met, what is met stands in one place, and names are names."""
    if record.has("policy"):
        for key in CONDITIONS:
            if key in record.keys:
                record.problem(f"`policy` decides in the place of `{key}`; give its configuration to the plugin", key)
    elif record.get("on") == () and not any(record.has(key) for key in CONDITIONS[1:]):
        record.problem("nothing would be retried; expected a condition, or `retriable_statuses`", "on")
    for name in record.get("on") or ():
        if name in LISTS and not record.has(LISTS[name]):
            record.problem(f"{name!r} needs the list `{LISTS[name]}`", "on")
    for match in record.get("retriable_headers") or ():
        try:
            compile_header_match(match)
        except ValueError as error:
            record.problem(str(error), "retriable_headers")
    for name in record.get("idempotency_headers") or ():
        try:
            field(name.encode(), b"")
        except ValueError:
            record.problem(f"not a field name: {name!r}", "idempotency_headers")


def backoff(record: Record) -> None:
    """The bounds do not cross."""
    base, most = record.get("base", Backoff().base), record.get("max", Backoff().max)
    if base > most:
        record.problem(f"expected at least `base` ({base:g} s), got {most:g} s", "max" if record.has("max") else "base")


def hedge(record: Record) -> None:
    """Something begins it."""
    if not record.get("delay") and not record.get("hedge_on_per_try_timeout"):
        record.problem("nothing would begin another attempt; expected `delay` or `hedge_on_per_try_timeout`")


def route_retry(record: Record) -> None:
    """Of a route: hedging shares the limits of its `retry`, and the time that it waits for is set."""
    if not record.has("hedge") or record.has("redirect") or record.has("direct_response"):
        return
    retry, hedge = record.get("retry"), record.get("hedge")
    if not record.has("retry"):
        record.problem("`hedge` goes by the limits of `retry` (attempts, budget, body_bytes), and there is none", "hedge")
    elif isinstance(retry, Retry) and retry.silent_after:
        record.problem("`hedge` and `retry.silent_after` both begin an attempt beside; expected only one of them", "hedge")
    elif isinstance(retry, Retry) and isinstance(hedge, Hedge) and hedge.hedge_on_per_try_timeout and not retry.per_try_timeout:
        record.problem("`hedge_on_per_try_timeout` waits for `retry.per_try_timeout`, which is off", "hedge")


RETRY_CHECKS: dict[type, Check] = {Retry: retry, Backoff: backoff, Hedge: hedge}
