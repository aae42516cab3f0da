"""`sidecar ca`: a small certificate authority for laptops, demos and tests. See docs/identity.md."""

from __future__ import annotations

import time
from pathlib import Path

import click
from cryptography import x509

from sidecar.identity.authority import AUTHORITY_DAYS, CERTIFICATE_FILE, WORKLOAD_DAYS, Authority
from sidecar.identity.certificate import UNREADABLE, CertificateFacts, facts_of, span, when
from sidecar.identity.files import PRIVATE, PUBLIC, replace_file
from sidecar.identity.material import Material, is_key_of
from sidecar.identity.spiffe import SpiffeId
from sidecar.model import Node

DIRECTORY = "ca"
OUT = "certs"


@click.group()
def ca() -> None:
    """A small certificate authority for laptops, demos and tests."""


@ca.command()
@click.option("--directory", default=DIRECTORY, show_default=True, help="Where the authority lives.")
@click.option("--trust-domain", default=Node().trust_domain, show_default=True, help="The trust domain that it speaks for.")
@click.option("--days", default=AUTHORITY_DAYS, show_default=True, help="How long it is valid.")
@click.option("--force", is_flag=True, help="Replace an authority that is there. What it issued is then refused by everybody who trusts the new one.")
def init(directory: str, trust_domain: str, days: float, force: bool) -> None:
    """Make a certificate authority."""
    try:
        authority = Authority.create(trust_domain, time.time(), days)
        authority.save(directory, replace=force)
    except FileExistsError:
        raise click.ClickException(
            f"there is an authority in {directory} already; --force replaces it, and everything that it issued has to be issued anew"
        ) from None
    except (ValueError, OSError) as error:
        raise click.ClickException(_sentence(error)) from None
    facts = facts_of(authority.certificate)
    click.echo(f"Made the authority of the trust domain {trust_domain} in {directory}, valid until {when(facts.not_after)}.")
    click.echo("Whoever can read its key can be anybody in this trust domain: keep the directory to yourself.")


@ca.command()
@click.argument("service")
@click.option("--namespace", default=Node().namespace, show_default=True, help="The namespace of the service.")
@click.option("--dns", multiple=True, metavar="NAME", help="A host name or IP address besides the identity, for clients that check names. May be repeated.")
@click.option("--days", default=WORKLOAD_DAYS, show_default=True, help="How long the certificate is valid.")
@click.option("--directory", default=DIRECTORY, show_default=True, help="Where the authority lives.")
@click.option("--out", default=None, help=f"Where to write cert.pem, key.pem and ca.pem.  [default: {OUT}/SERVICE]")
def issue(service: str, namespace: str, dns: tuple[str, ...], days: float, directory: str, out: str | None) -> None:
    """Issue a certificate and key for SERVICE.

    Run it again to replace them: a running sidecar takes the new ones up by itself.
    """
    try:
        authority = Authority.load(directory)
        identity = SpiffeId.of_workload(authority.trust_domain, namespace, service)
        chain, key = authority.issue(identity, dns, days, now=time.time())
        target = Path(out) if out is not None else Path(OUT) / service
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
        # The certificate last: a sidecar that looks in between sees a pair that does not match, keeps the old one, and looks again.
        replace_file(target / "key.pem", key, PRIVATE)
        replace_file(target / "ca.pem", authority.trust_pem, PUBLIC)
        replace_file(target / "cert.pem", chain, PUBLIC)
    except FileNotFoundError as error:
        raise click.ClickException(f"{error.filename} is not there; `sidecar ca init --directory {directory}` makes an authority") from None
    except (ValueError, OSError) as error:
        raise click.ClickException(_sentence(error)) from None
    facts = facts_of(x509.load_pem_x509_certificates(chain)[0])
    click.echo(f"{identity} is valid until {when(facts.not_after)}: {target}/cert.pem, key.pem, ca.pem")


@ca.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), default=None, help="The key to compare with.  [default: key.pem or ca-key.pem beside FILE]")
@click.option("--trust", type=click.Path(path_type=Path), default=None, help="The bundle to verify with.  [default: ca.pem beside FILE]")
def show(file: Path, key: Path | None, trust: Path | None) -> None:
    """Print what the certificates in FILE say.

    FILE may be a directory with a cert.pem or ca.pem. Ends with status 1 when they cannot serve.
    """
    try:
        if file.is_dir():
            file = next((file / name for name in ("cert.pem", CERTIFICATE_FILE) if (file / name).exists()), file / "cert.pem")
        content = file.read_bytes()
        certificates = x509.load_pem_x509_certificates(content)
    except OSError as error:
        raise click.ClickException(_sentence(error)) from None
    except UNREADABLE:
        what = (
            "a private key, not a certificate"
            if b"PRIVATE KEY-----" in content
            else "not PEM (a block from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----)"
        )
        raise click.ClickException(f"{file} is {what}") from None
    now = time.time()
    for index, each in enumerate(certificates):
        if index:
            click.echo()
        _print(facts_of(each), now)
    is_authority = facts_of(certificates[0]).is_authority
    key = key or _beside(file, "ca-key.pem" if is_authority else "key.pem")
    trust = None if is_authority else trust or _beside(file, "ca.pem")
    try:
        sound = _print_verdict(content, certificates[0], key, trust, now)
    except (ValueError, OSError) as error:
        raise click.ClickException(_sentence(error)) from None
    if not sound:
        raise click.exceptions.Exit(1)


def _print(facts: CertificateFacts, now: float) -> None:
    """One certificate, a line for each fact."""
    left = facts.not_after - now
    if now < facts.not_before:
        state = f"NOT VALID YET, in {span(facts.not_before - now)}"
    else:
        state = f"{span(left)} left" if left >= 0 else f"EXPIRED {span(left)} ago"
    rows = [
        ("subject", facts.subject or "(none)"),
        ("SPIFFE ID", str(facts.identity) if facts.identity is not None else f"none: it {facts.identity_problem}"),
        ("issuer", facts.issuer_name),
        ("kind", "authority" if facts.is_authority else "workload"),
        ("valid", f"{when(facts.not_before)} to {when(facts.not_after)} ({state})"),
        ("serial", facts.serial),
        ("SHA-256", facts.sha256),
    ]
    if facts.dns_names:
        rows.insert(2, ("DNS names", ", ".join(facts.dns_names)))
    for name, value in rows:
        _line(name, value)


def _print_verdict(content: bytes, certificate: x509.Certificate, key: Path | None, trust: Path | None, now: float) -> bool:
    """Print whether the key fits and whether a sidecar would take it all; the answer."""
    facts = facts_of(certificate)
    matches = True
    if key is None:
        _line("key", "not beside it (give one with --key)")
    else:
        matches = is_key_of(key.read_bytes(), certificate)
        _line("key", f"matches ({key})" if matches else f"DOES NOT MATCH ({key})")
    if facts.is_authority or key is None or not matches:
        return matches and facts.not_before <= now <= facts.not_after
    try:
        Material.parse(content, key.read_bytes(), trust.read_bytes() if trust is not None else b"", now)
    except ValueError as error:
        _line("verdict", f"a sidecar refuses it: {error}")
        return False
    _line(
        "verdict",
        f"a sidecar takes it, verified by {trust}" if trust is not None else "a sidecar takes it; not verified, there is no ca.pem beside it (--trust)",
    )
    return True


def _line(name: str, value: str) -> None:
    click.echo(f"{name + ':':<11}{value}")


def _beside(file: Path, name: str) -> Path | None:
    found = file.with_name(name)
    return found if found.exists() and found != file else None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
