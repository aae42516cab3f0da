"""The keyring: every named certificate as it is now, and the OpenSSL contexts made of them.

A context is made anew when its certificate or bundle is replaced; a `ContextSlot` always holds the newest. Connections keep the context that they began with,
so rotation closes none of them, and one that begins after the replacement uses the new one. A replacement that is broken is refused, said and counted, and the
old one goes on serving.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from sidecar.identity.certificate import CertificateFacts, when
from sidecar.identity.contexts import ContextSlot, make_context
from sidecar.identity.material import Material, NotYetValid
from sidecar.identity.spiffe import SpiffeId, check_trust_domain
from sidecar.identity.terms import Terms, is_ip
from sidecar.model import DownstreamTLS, Node, UpstreamTLS

_Build = Callable[[dict[str, Material]], tuple[Terms, Material | None]]


@attrs.define
class _Entry:
    """One named certificate. Times are POSIX seconds."""

    name: str
    source: Any
    material: Material
    loaded: float
    rotations: int = 0
    refusals: int = 0
    refusal: str = ""
    refused_at: float | None = None
    retry: Any = None


@attrs.frozen
class _Made:
    """A slot, the names of the certificates that it stands on, and how to get from them to its terms."""

    slot: ContextSlot
    names: frozenset[str]
    build: _Build


class Keyring:
    """All certificates by name. `add` each, ask for contexts, then `watch`; `stop` at the end. Reactor thread only."""

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._made: dict[tuple[object, Node], _Made] = {}

    def add(self, name: str, source: Any) -> None:
        """The certificate `name` is what `source` (`ICertificateSource`) loads now. Raises `ValueError` with a sentence when that cannot serve: a start must
        not go on without it.
        """
        if name in self._entries:
            raise ValueError(f"there are two certificates of the name {name!r}")
        try:
            material = _load(source)
        except ValueError as error:
            raise ValueError(f"certificate {name!r}: {error}") from None
        self._entries[name] = _Entry(name, source, material, self._clock.seconds())

    def material(self, name: str) -> Material:
        """The material of `name` that is in use. Raises `ValueError` when there is no such certificate."""
        return _find(self._materials(), name)

    def downstream_context(self, tls: DownstreamTLS, node: Node) -> ContextSlot:
        """The slot for a listener's TLS, the same one for the same settings. Raises `ValueError` with a sentence when they cannot work."""
        names = frozenset({tls.certificate, tls.trust or tls.certificate})
        return self._slot((tls, node), names, partial(_downstream_terms, tls, node))

    def upstream_context(self, tls: UpstreamTLS, node: Node) -> ContextSlot:
        """The slot for a cluster's TLS, the same one for the same settings. Raises `ValueError` with a sentence when they cannot work."""
        names = frozenset(name for name in (tls.certificate, tls.trust) if name is not None)
        return self._slot((tls, node), names, partial(_upstream_terms, tls, node))

    def watch(self) -> None:
        """From now on replacements are taken up. Call it once."""
        for entry in self._entries.values():
            entry.source.watch(partial(self.reload, entry.name))

    def stop(self) -> None:
        """Nothing is watched any more; contexts stay usable."""
        for entry in self._entries.values():
            entry.source.stop()
            _cancel(entry)

    def reload(self, name: str) -> bool:
        """Ask the source of `name` now: the answer is in use, or refused and the old one stays. True when something new is in use. Never raises."""
        entry = self._entries[name]
        _cancel(entry)
        try:
            material = _load(entry.source)
            if material == entry.material:
                entry.refusal = ""  # what was broken has been put back
                return False
            self._commit(entry, material)
        except NotYetValid as error:
            # Clocks differ by seconds, and no file will change when the time has come.
            entry.retry = self._clock.callLater(max(1.0, error.not_before - self._clock.seconds()), self.reload, name)
            self._refuse(entry, str(error))
            return False
        except Exception as error:  # a source is a plugin: whatever it raises, the old certificate serves on
            if not isinstance(error, ValueError):
                self.log.failure("the source of the certificate {name} failed", name=name)
            self._refuse(entry, str(error) or type(error).__name__)
            return False
        return True

    def snapshot(self) -> list[dict[str, Any]]:
        """What `/certs` and metrics show, no secrets: for each certificate its names, times (POSIX seconds), `expires_in_seconds` (negative when over),
        `rotations`, `refusals`, and `refusal` (the reason why the newest replacement is not in use, "" when it is)."""
        now = self._clock.seconds()
        return [_describe(entry, now) for _, entry in sorted(self._entries.items())]

    def _materials(self) -> dict[str, Material]:
        return {name: entry.material for name, entry in self._entries.items()}

    def _slot(self, key: tuple[object, Node], names: frozenset[str], build: _Build) -> ContextSlot:
        made = self._made.get(key)
        if made is None:
            terms, trust = build(self._materials())
            made = self._made[key] = _Made(ContextSlot(make_context(terms, trust), self._clock), names, build)
        return made.slot

    def _commit(self, entry: _Entry, material: Material) -> None:
        """Make every context that stands on it first, then switch all of them: it is in use everywhere or nowhere."""
        materials = self._materials() | {entry.name: material}
        ready = []
        for made in self._made.values():
            if entry.name in made.names:
                terms, trust = made.build(materials)
                ready.append((made.slot, make_context(terms, trust)))
        for slot, context in ready:
            slot.current = context
        if material.identity != entry.material.identity:
            self.log.warn(
                "certificate {name} now names {new}, before it was {old}", name=entry.name, new=str(material.identity), old=str(entry.material.identity)
            )
        entry.material, entry.loaded, entry.refusal = material, self._clock.seconds(), ""
        entry.rotations += 1
        self.log.info("certificate {name} was replaced: {material}; new connections use it", name=entry.name, material=repr(material))

    def _refuse(self, entry: _Entry, reason: str) -> None:
        entry.refusals += 1
        entry.refusal, entry.refused_at = reason, self._clock.seconds()
        self.log.warn("the replacement of certificate {name} was refused, the old one goes on serving: {reason}", name=entry.name, reason=reason)


def _cancel(entry: _Entry) -> None:
    if entry.retry is not None and entry.retry.active():
        entry.retry.cancel()
    entry.retry = None


def _load(source: Any) -> Material:
    material = source.load()
    if not isinstance(material, Material):
        raise ValueError(f"{source!r} gave {type(material).__name__}, not a Material")
    return material


def _find(materials: dict[str, Material], name: str) -> Material:
    try:
        return materials[name]
    except KeyError:
        raise ValueError(f"there is no certificate {name!r}; there {'are ' + ', '.join(sorted(materials)) if materials else 'is none at all'}") from None


def _downstream_terms(tls: DownstreamTLS, node: Node, materials: dict[str, Material]) -> tuple[Terms, Material | None]:
    own = _find(materials, tls.certificate)
    if own.identity is None:
        raise ValueError(f"certificate {tls.certificate!r} has no certificate, only trust; a listener needs one to show")
    terms = Terms(
        side="server",
        own=own,
        own_name=own.identity.name,
        trust_domains=_domains(tls.trust_domains) or frozenset({own.identity.trust_domain}),
        requires_peer=tls.client_certificate == "require",
        alpn=tls.alpn,
        minimum_version=tls.minimum_version,
    )
    if tls.client_certificate == "none":
        return terms, None
    return terms, _bundle(materials, tls.trust or tls.certificate, f"client certificates cannot be verified (client_certificate: {tls.client_certificate})")


def _upstream_terms(tls: UpstreamTLS, node: Node, materials: dict[str, Material]) -> tuple[Terms, Material | None]:
    own = _find(materials, tls.certificate) if tls.certificate is not None else None
    if own is not None and own.identity is None:
        raise ValueError(f"certificate {tls.certificate!r} has no certificate, only trust; name it as `trust`")
    if tls.hostname and (tls.identities or tls.trust_domains):
        raise ValueError("`hostname` is for ordinary TLS servers, `identities` and `trust_domains` are for workloads: give one or the other")
    own_domain = own.identity.trust_domain if own is not None and own.identity is not None else node.trust_domain
    server_name = tls.server_name or tls.hostname or ""
    terms = Terms(
        side="client",
        own=own,
        own_name=own.identity.name if own is not None and own.identity is not None else node.service,
        identities=frozenset(str(SpiffeId.parse(text)) for text in tls.identities),
        trust_domains=frozenset() if tls.hostname or tls.identities else _domains(tls.trust_domains) or frozenset({own_domain}),
        hostname=tls.hostname or "",
        server_name="" if is_ip(server_name) else server_name,  # RFC 6066 section 3: literal addresses are not permitted
        alpn=tls.alpn,
        minimum_version=tls.minimum_version,
    )
    bundle = tls.trust or tls.certificate
    if bundle is None:
        if not tls.hostname:
            raise ValueError("the other side cannot be verified: name a `certificate` that has a trust bundle, or a `trust`")
        return terms, None  # an ordinary server: the system's authorities
    return terms, _bundle(materials, bundle, "the other side cannot be verified")


def _bundle(materials: dict[str, Material], name: str, consequence: str) -> Material:
    material = _find(materials, name)
    if not material.trust:
        raise ValueError(f"certificate {name!r} has no trust bundle, so {consequence}; give its source a `trust`, or name another one under `trust`")
    return material


def _domains(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(check_trust_domain(name) for name in names)


def _describe(entry: _Entry, now: float) -> dict[str, Any]:
    own = entry.material.certificate
    described: dict[str, Any] = {
        "name": entry.name,
        "identity": str(own.identity) if own is not None else "",
        "authorities": [
            {"subject": each.subject, "sha256": each.sha256, "not_after": each.not_after, "expires_in_seconds": each.not_after - now}
            for each in entry.material.authorities
        ],
        "loaded_at": entry.loaded,
        "rotations": entry.rotations,
        "refusals": entry.refusals,
        "refusal": entry.refusal,
        "refused_at": entry.refused_at,
    }
    return described | (_dates(own, now) if own is not None else {})


def _dates(own: CertificateFacts, now: float) -> dict[str, Any]:
    return {
        "subject": own.subject,
        "issuer": own.issuer,
        "serial": own.serial,
        "sha256": own.sha256,
        "dns_names": list(own.dns_names),
        "not_before": own.not_before,
        "not_after": own.not_after,
        "valid_until": when(own.not_after),
        "expires_in_seconds": own.not_after - now,
    }
