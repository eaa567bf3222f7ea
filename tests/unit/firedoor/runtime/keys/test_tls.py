"""Certificates, and real TLS 1.3 handshakes in memory."""

import base64
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firedoor.errors import Malformed, Untrusted
from firedoor.identity import RING_DEFAULT, Peer, PeerId, Role
from firedoor.runtime.keys.authority import (
    fingerprint,
    has_identifiers,
    id_of_request,
    issue,
    make_authority,
    make_request,
    peer_id,
    renew_authority,
)
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.runtime.keys.tls import (
    Credentials,
    client_context,
    credentials_of,
    enrolment_server_context,
    peer_of,
    peer_of_certificate,
    pinned_context,
    role_name,
    server_context,
    server_name,
)
from firedoor.units import UnixTime

VECTORS = Path(__file__).parents[4] / "vectors"
NOW = UnixTime(1_700_000_000)
DAY = 86400
CA_SEED, FOREIGN_SEED = b"\1" * 32, b"\2" * 32
CA = make_authority("test", CA_SEED, NOW)
FOREIGN = make_authority("foreign", FOREIGN_SEED, NOW)
MIRROR_SEED, AGENT_SEED = b"\3" * 32, b"\4" * 32


def id_of(seed: bytes) -> PeerId:
    return peer_id(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())


def leaf(seed: bytes, role: Role, *, ca: bytes = CA, ca_seed: bytes = CA_SEED) -> bytes:
    request = make_request(seed)
    return issue(request, ca_pem=ca, ca_seed=ca_seed, role=role, site="branch", now=NOW)


def credentials(seed: bytes, role: Role, **authority: bytes) -> Credentials:
    certificate = leaf(seed, role, **authority).decode()
    key = KeyFile("r", "n", "f", "k", "p", (b"\0" * 32 + seed).hex(), certificate, CA.decode())
    return credentials_of(key)


MIRROR = credentials(MIRROR_SEED, Role.MIRROR)
AGENT = credentials(AGENT_SEED, Role.AGENT)


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a whole handshake, with one byte sent each way."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=name)
    theirs = server.wrap_bio(up, down, server_side=True)
    waiting = [ours, theirs]
    for _ in range(8):
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert not waiting
    # A TLS 1.3 client hears that its certificate is refused only when it reads.
    theirs.write(b"x")
    assert ours.read(1) == b"x"
    return theirs, ours


def test_two_peers_of_a_fleet_know_each_other() -> None:
    theirs, ours = handshake(
        server_context(MIRROR), client_context(AGENT), server_name(id_of(MIRROR_SEED))
    )
    assert theirs.version() == "TLSv1.3"
    assert peer_of(theirs.getpeercert(), NOW) == Peer(id_of(AGENT_SEED), Role.AGENT, "branch")
    assert peer_of(ours.getpeercert(), NOW) == Peer(id_of(MIRROR_SEED), Role.MIRROR, "branch")


def test_an_expired_certificate_still_connects_and_is_known_as_expired() -> None:
    # NOW lies years back and a leaf lives a week, so both certificates are past their dates.
    theirs, _ = handshake(server_context(MIRROR), client_context(AGENT), role_name(Role.MIRROR))
    certificate = theirs.getpeercert()
    assert not peer_of(certificate, UnixTime(NOW + 7 * DAY)).is_current
    assert peer_of(certificate, UnixTime(NOW + 7 * DAY - 1)).is_current
    assert peer_of(certificate, UnixTime(NOW - 3600)).is_current
    assert not peer_of(certificate, UnixTime(NOW - 3601)).is_current


def test_a_client_of_a_foreign_authority_is_refused() -> None:
    foreign = credentials(AGENT_SEED, Role.AGENT, ca=FOREIGN, ca_seed=FOREIGN_SEED)
    with pytest.raises(ssl.SSLError):
        handshake(server_context(MIRROR), client_context(foreign), role_name(Role.MIRROR))


def test_a_server_of_a_foreign_authority_is_refused() -> None:
    foreign = credentials(MIRROR_SEED, Role.MIRROR, ca=FOREIGN, ca_seed=FOREIGN_SEED)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(foreign), client_context(AGENT), role_name(Role.MIRROR))


def test_a_foreign_authority_of_the_same_name_is_refused() -> None:
    twin = make_authority("test", FOREIGN_SEED, NOW)
    foreign = credentials(MIRROR_SEED, Role.MIRROR, ca=twin, ca_seed=FOREIGN_SEED)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(foreign), client_context(AGENT), role_name(Role.MIRROR))


def test_a_leaf_is_no_authority() -> None:
    middle = leaf(MIRROR_SEED, Role.MIRROR)
    forged = credentials(AGENT_SEED, Role.OPERATOR, ca=middle, ca_seed=MIRROR_SEED)
    chained = Credentials(forged.certificate + middle, forged.key, CA)
    with pytest.raises(ssl.SSLError):
        handshake(server_context(MIRROR), client_context(chained), role_name(Role.MIRROR))


@pytest.mark.parametrize("name", [role_name(Role.MIRROR), server_name(id_of(MIRROR_SEED))])
def test_a_server_of_another_role_or_id_is_refused(name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname"):
        handshake(server_context(AGENT), client_context(AGENT), name)


def test_certificates_have_what_conforming_ones_must_have() -> None:
    ca, made = (x509.load_pem_x509_certificate(each) for each in (CA, leaf(AGENT_SEED, Role.AGENT)))
    own = made.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    issuer = made.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    named = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert issuer.value.key_identifier == named.value.digest
    assert own.value.digest != named.value.digest
    for certificate in (ca, made):
        extensions = certificate.extensions
        is_critical = {type(each.value): each.critical for each in extensions}
        assert is_critical[x509.BasicConstraints]
        assert is_critical[x509.KeyUsage]
        assert not is_critical[x509.SubjectKeyIdentifier]
        assert not is_critical[x509.AuthorityKeyIdentifier]
    assert ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert made.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature


@pytest.mark.parametrize(
    "make", [server_context, client_context, lambda each: pinned_context(each.ca)]
)
def test_every_context_that_verifies_somebody_does_so_strictly(
    make: Callable[[Credentials], ssl.SSLContext],
) -> None:
    assert make(AGENT).verify_flags & ssl.VERIFY_X509_STRICT


def old(name: str) -> bytes:
    """A certificate that version 0.1 made: `ca`, `mirror` or `agent`."""
    table = json.loads((VECTORS / "certificates_0_1.json").read_text("utf-8"))
    return "\n".join([*table[name], ""]).encode()


def old_credentials(seed: bytes, name: str, ca: bytes) -> Credentials:
    key = KeyFile(
        "r", "n", "f", "k", "p", (b"\0" * 32 + seed).hex(), old(name).decode(), ca.decode()
    )
    return credentials_of(key)


def test_a_fleet_of_version_0_1_goes_on_with_the_certificates_that_it_has() -> None:
    mirror = old_credentials(MIRROR_SEED, "mirror", old("ca"))
    agent = old_credentials(AGENT_SEED, "agent", old("ca"))
    for client in (client_context(agent), pinned_context(old("ca"))):
        handshake(enrolment_server_context(mirror), client, role_name(Role.MIRROR))
    theirs, _ = handshake(server_context(mirror), client_context(agent), role_name(Role.MIRROR))
    assert peer_of(theirs.getpeercert(), NOW) == Peer(id_of(AGENT_SEED), Role.AGENT, "branch")


def test_machines_of_both_versions_meet_while_a_fleet_is_upgraded() -> None:
    # The origin's program is new, so it issues leaves with identifiers; the pin is the old CA.
    fresh = issue(
        make_request(MIRROR_SEED),
        ca_pem=old("ca"),
        ca_seed=CA_SEED,
        role=Role.MIRROR,
        site="branch",
        now=NOW,
    )
    mirror = replace(old_credentials(MIRROR_SEED, "mirror", old("ca")), certificate=fresh)
    agent = old_credentials(AGENT_SEED, "agent", old("ca"))
    handshake(server_context(mirror), client_context(agent), role_name(Role.MIRROR))


def test_a_ca_certificate_that_is_made_again_verifies_what_the_old_one_did() -> None:
    again = renew_authority(old("ca"), CA_SEED, NOW)
    assert has_identifiers(again)
    assert not has_identifiers(old("ca"))
    new_mirror = Credentials(leaf(MIRROR_SEED, Role.MIRROR), MIRROR.key, again)
    old_agent = old_credentials(AGENT_SEED, "agent", old("ca"))
    handshake(
        enrolment_server_context(new_mirror),
        client_context(old_agent),
        "mirror.role.firedoor.internal",
    )
    # One that holds the new certificate asks for identifiers: the old leaf is renewed first.
    with pytest.raises(ssl.SSLError):
        handshake(server_context(new_mirror), client_context(old_agent), role_name(Role.MIRROR))


def test_a_ca_certificate_is_made_again_for_its_own_key_alone() -> None:
    with pytest.raises(Malformed, match="another key"):
        renew_authority(CA, FOREIGN_SEED, NOW)
    for read in (has_identifiers, lambda pem: renew_authority(pem, CA_SEED, NOW)):
        with pytest.raises(Malformed, match="wanted PEM"):
            read(b"no certificate")


def anonymous() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CA.decode())
    context.verify_flags |= 0x200000
    return context


def test_a_client_without_a_certificate_is_refused() -> None:
    with pytest.raises(ssl.SSLError):
        handshake(server_context(MIRROR), anonymous(), role_name(Role.MIRROR))


def test_the_enrolment_listener_takes_a_client_without_a_certificate() -> None:
    theirs, _ = handshake(enrolment_server_context(MIRROR), anonymous(), role_name(Role.MIRROR))
    with pytest.raises(Untrusted, match="got none"):
        peer_of(theirs.getpeercert(), NOW)


def test_an_older_tls_is_refused() -> None:
    client = client_context(AGENT)
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        handshake(server_context(MIRROR), client, role_name(Role.MIRROR))
    assert client_context(AGENT).minimum_version is ssl.TLSVersion.TLSv1_3


DATES = {"notBefore": "Nov 14 00:00:00 2023 GMT", "notAfter": "Nov 21 00:00:00 2023 GMT"}
URI = f"firedoor:role=agent;site=branch;id={'a' * 32}"


def certificate(*uris: str) -> dict[str, Any]:
    return DATES | {"subjectAltName": tuple(("URI", uri) for uri in uris)}


def test_a_peer_is_what_its_certificate_says() -> None:
    assert peer_of(certificate(URI), NOW) == Peer(PeerId("a" * 32), Role.AGENT, "branch")


def test_a_certificate_says_the_ring_of_its_machine() -> None:
    found = peer_of(certificate(URI.replace(";id", ";ring=canary;id")), NOW)
    assert found.ring == "canary"


def test_a_certificate_of_before_there_were_rings_is_of_the_broad_one() -> None:
    assert peer_of(certificate(URI), NOW).ring == RING_DEFAULT


@pytest.mark.parametrize(
    "odd",
    [
        None,
        {},
        DATES,
        certificate(URI, URI),
        certificate(URI + "x"),
        certificate(URI.replace("agent", "root")),
        certificate(URI.replace("branch", "a/b")),
        certificate(URI.replace(";id", ";ring=;id")),
        certificate(URI.replace(";id", ";ring=a/b;id")),
        certificate(URI.replace("a" * 32, "A" * 32)),
        {"subjectAltName": (("URI", URI),)},
        certificate(URI) | {"notAfter": "tomorrow"},
    ],
)
def test_an_odd_certificate_names_nobody(odd: Mapping[str, Any] | None) -> None:
    with pytest.raises(Untrusted):
        peer_of(odd, NOW)


def test_a_certificate_file_names_its_peer() -> None:
    peer = peer_of_certificate(MIRROR.certificate, NOW)
    assert peer == Peer(id_of(MIRROR_SEED), Role.MIRROR, "branch")
    assert not peer_of_certificate(MIRROR.certificate, UnixTime(NOW + 7 * DAY)).is_current


@pytest.mark.parametrize("pem", [b"", CA])
def test_a_certificate_file_without_names_is_refused(pem: bytes) -> None:
    with pytest.raises(Malformed):
        peer_of_certificate(pem, NOW)


def test_a_key_file_without_a_certificate_is_no_identity() -> None:
    with pytest.raises(Malformed):
        credentials_of(KeyFile("r", "n", "f", "k", "p", "00" * 64))


def test_a_private_key_never_shows() -> None:
    assert "PRIVATE" not in repr(MIRROR)


# --- issuing ------------------------------------------------------------------------------------


def test_a_fingerprint_is_the_digest_of_the_der() -> None:
    der = x509.load_pem_x509_certificate(CA).public_bytes(serialization.Encoding.DER)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    assert fingerprint(CA) == digest.finalize().hex()


def test_a_site_that_is_no_name_is_refused() -> None:
    with pytest.raises(Malformed, match="site"):
        issue(make_request(AGENT_SEED), ca_pem=CA, ca_seed=CA_SEED, role=Role.AGENT,
              site="a;id=b", now=NOW)  # fmt: skip


def issue_for(request: bytes) -> bytes:
    return issue(request, ca_pem=CA, ca_seed=CA_SEED, role=Role.AGENT, site="branch", now=NOW)


def test_a_request_that_its_own_key_did_not_sign_is_refused() -> None:
    request = x509.load_pem_x509_csr(make_request(AGENT_SEED))
    der = bytearray(request.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(Untrusted):
        issue_for(forged)


def test_a_request_for_another_kind_of_key_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(Malformed, match="Ed25519"):
        issue_for(request)


@pytest.mark.parametrize("request_pem", [b"", CA, b"\xff"])
def test_no_request_at_all_is_refused(request_pem: bytes) -> None:
    with pytest.raises(Malformed):
        issue_for(request_pem)


def request_with(old: bytes, new: bytes) -> bytes:
    """An endpoint's request in which the first `old` of its DER is `new`."""
    read = x509.load_pem_x509_csr(make_request(AGENT_SEED))
    der = read.public_bytes(serialization.Encoding.DER)
    assert old in der
    text = base64.encodebytes(der.replace(old, new, 1))
    kind = b"CERTIFICATE REQUEST-----\n"
    return b"-----BEGIN " + kind + text + b"-----END " + kind


def test_a_request_for_a_key_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(Malformed, match="certificate request"):
        id_of_request(request_with(b"\x06\x03\x2b\x65\x70", b"\x06\x03\x2b\x65\x7f"))


def test_a_request_that_its_key_has_not_signed_names_nobody() -> None:
    mine, other = (
        Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        for seed in (AGENT_SEED, MIRROR_SEED)
    )
    with pytest.raises(Untrusted, match="certificate request"):
        id_of_request(request_with(mine, other))
