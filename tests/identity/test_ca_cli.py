"""`sidecar ca` as a person uses it: what is written, with which modes, and what is said when it cannot be."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidecar.identity.authority import Authority
from sidecar.identity.ca_cli import ca
from sidecar.identity.files import PRIVATE, PUBLIC, replace_file
from sidecar.identity.material import Material

ORDERS = "spiffe://example.org/ns/shop/sa/orders"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    """`sidecar ca WORDS`."""
    return CliRunner().invoke(ca, words)


def good(*words: str) -> str:
    """What a command prints that must succeed."""
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.output


def bad(*words: str) -> str:
    """What a command says that must fail: one sentence, no traceback."""
    result = run(*words)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").strip()


def mode(path: Path) -> int:
    """Its permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def material(directory: Path) -> Material:
    """What a sidecar loads from there."""
    return Material.parse(*((directory / name).read_bytes() for name in ("cert.pem", "key.pem", "ca.pem")), time.time())


def test_two_commands_make_an_identity_that_a_sidecar_takes(here: Path) -> None:
    """With closed keys, whatever the umask."""
    before = os.umask(0)
    try:
        said = good("init", "--trust-domain", "example.org"), good("issue", "orders", "--namespace", "shop", "--dns", "localhost", "--dns", "127.0.0.1")
    finally:
        os.umask(before)
    assert said[0].startswith("Made the authority of the trust domain example.org in ca, valid until ")
    assert said[1].startswith(f"{ORDERS} is valid until ") and said[1].endswith(": certs/orders/cert.pem, key.pem, ca.pem\n")
    made = material(here / "certs/orders")
    assert str(made.identity) == ORDERS
    assert made.certificate is not None and made.certificate.dns_names == ("localhost",)
    assert 29.9 * 86400 < made.certificate.not_after - time.time() <= 30 * 86400
    assert [mode(here / name) for name in ("ca", "ca/ca-key.pem", "certs/orders/key.pem")] == [0o700, 0o600, 0o600]
    assert [mode(here / name) for name in ("ca/ca.pem", "certs/orders/cert.pem", "certs/orders/ca.pem")] == [0o644, 0o644, 0o644]


def test_init_refuses_to_overwrite_without_force(here: Path) -> None:
    """Everything issued would be worth nothing."""
    good("init")
    before = (here / "ca/ca.pem").read_bytes()
    assert bad("init") == "there is an authority in ca already; --force replaces it, and everything that it issued has to be issued anew"
    assert (here / "ca/ca.pem").read_bytes() == before
    good("init", "--force")
    assert (here / "ca/ca.pem").read_bytes() != before


def test_issuing_again_replaces_the_files_whole(here: Path) -> None:
    """A reader that has one open keeps the old one; the certificate comes last."""
    good("init", "--trust-domain", "example.org")
    good("issue", "orders", "--namespace", "shop")
    first = material(here / "certs/orders")
    old = (here / "certs/orders/cert.pem").stat().st_ino
    with (here / "certs/orders/cert.pem").open("rb") as reader:
        good("issue", "orders", "--namespace", "shop", "--days", "2")
        assert reader.read() == first.chain
    assert (here / "certs/orders/cert.pem").stat().st_ino != old
    assert material(here / "certs/orders").chain != first.chain
    assert sorted(each.name for each in (here / "certs/orders").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


def test_directories_can_be_named(here: Path) -> None:
    """The authority's and the certificate's."""
    good("init", "--directory", "deep/ca")
    good("issue", "orders", "--directory", "deep/ca", "--out", "elsewhere")
    assert str(material(here / "elsewhere").identity) == "spiffe://cluster.local/ns/default/sa/orders"


def test_what_cannot_be_done_is_said_in_a_sentence(here: Path) -> None:
    """And ends with status 1."""
    assert bad("issue", "orders") == "ca/ca.pem is not there; `sidecar ca init --directory ca` makes an authority"
    assert bad("init", "--trust-domain", "Example.org") == "a trust domain has lower-case letters, digits, '.', '-' and '_' only, got 'Example.org'"
    (here / "file").write_text("")
    assert bad("init", "--directory", "file/ca") == "file/ca: Not a directory"
    good("init")
    assert bad("issue", "../orders") == "the service '../orders' does not fit into a SPIFFE ID: letters, digits, '.', '-' and '_' only"
    assert bad("issue", "orders", "--days", "0") == "a certificate is valid for more than 0 days, got 0"
    assert bad("show", "nothing") == "nothing: No such file or directory"
    assert bad("show", "file") == "file is not PEM (a block from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----)"
    assert bad("show", "ca/ca-key.pem") == "ca/ca-key.pem is a private key, not a certificate"
    assert not (here / "certs").exists()


def lines(output: str) -> dict[str, str]:
    """`show`'s rows by name; those of the first certificate."""
    rows: dict[str, str] = {}
    for line in output.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            rows.setdefault(name, value.strip())
    return rows


def test_show_prints_what_a_person_compares(here: Path) -> None:
    """Names, issuer, days left, fingerprint, whether the key fits and the bundle verifies it."""
    good("init", "--trust-domain", "example.org")
    good("issue", "orders", "--namespace", "shop", "--dns", "localhost", "--days", "3")
    rows = lines(good("show", "certs/orders/cert.pem"))
    assert (rows["subject"], rows["SPIFFE ID"], rows["issuer"], rows["kind"]) == ("CN=orders", ORDERS, "CN=sidecar CA of example.org", "workload")
    assert rows["valid"].endswith("(2 days left)") and rows["DNS names"] == "localhost"
    facts = material(here / "certs/orders").certificate
    assert facts is not None and (rows["SHA-256"], rows["serial"]) == (facts.sha256, facts.serial)
    assert rows["key"] == "matches (certs/orders/key.pem)"
    assert rows["verdict"] == "a sidecar takes it, verified by certs/orders/ca.pem"
    assert good("show", "certs/orders") == good("show", "certs/orders/cert.pem")
    assert "PRIVATE" not in good("show", "certs/orders")


def test_show_knows_an_authority(here: Path) -> None:
    """With its own key beside it."""
    good("init", "--trust-domain", "example.org")
    rows = lines(good("show", "ca"))
    assert (rows["kind"], rows["SPIFFE ID"], rows["key"]) == ("authority", "spiffe://example.org", "matches (ca/ca-key.pem)")
    assert "verdict" not in rows


def test_show_ends_with_status_1_when_it_cannot_serve(here: Path) -> None:
    """Wrong key, wrong bundle, expired: said, and usable in scripts."""
    good("init", "--trust-domain", "example.org")
    good("issue", "orders")
    good("issue", "payments")
    good("init", "--directory", "other", "--trust-domain", "example.org")
    wrong_key = run("show", "certs/orders", "--key", "certs/payments/key.pem")
    assert wrong_key.exit_code == 1 and lines(wrong_key.output)["key"] == "DOES NOT MATCH (certs/payments/key.pem)"
    stranger = run("show", "certs/orders", "--trust", "other/ca.pem")
    assert stranger.exit_code == 1
    assert "a sidecar refuses it: the certificate of spiffe://example.org/ns/default/sa/orders was issued by" in stranger.output
    now = time.time()
    authority = Authority.create("example.org", now - 10 * 86400)
    for name, content, bits in zip(("cert.pem", "key.pem"), authority.issue(ORDERS, days=1, now=now - 5 * 86400), (PUBLIC, PRIVATE), strict=True):
        replace_file(here / name, content, bits)
    expired = run("show", "cert.pem")
    assert expired.exit_code == 1
    assert "(EXPIRED 4 days ago)" in expired.output and "a sidecar refuses it: the certificate of" in expired.output


def test_show_works_without_anything_beside(here: Path) -> None:
    """A certificate alone, and all of a chain."""
    authority = Authority.create("example.org", time.time())
    chain, _ = authority.create_intermediate(time.time()).issue(ORDERS, now=time.time())
    (here / "chain.pem").write_bytes(chain)
    output = good("show", "chain.pem")
    assert lines(output)["key"] == "not beside it (give one with --key)"
    assert output.count("subject:") == 2 and "CN=sidecar intermediate CA of example.org" in output
