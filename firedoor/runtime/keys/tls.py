"""mTLS 1.3 between all peers, with the fleet's CA and nobody else's.

Chain and role are verified by TLS; dates are not (X509_V_FLAG_NO_CHECK_TIME): a certificate past
its dates must still exchange orders and renew. `Peer.is_current` carries the dates to the rules
that need them. Certificates must have the form of RFC 5280 (VERIFY_X509_STRICT), unless the fleet's
own CA is one of version 0.1.
"""

import os
import re
import ssl
import tempfile
from asyncio import BaseTransport
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from firedoor.errors import FiredoorError, Malformed, Untrusted
from firedoor.identity import NAME, RING_DEFAULT, Peer, PeerId, Role
from firedoor.runtime.keys.authority import has_identifiers, peer_id
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.units import UnixTime

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL; Python's ssl has no name for it.
_NO_CHECK_TIME = 0x200000

# For a look at a certificate that does not depend on its dates.
_NO_TIME = UnixTime(0)

_URI = re.compile(
    # Certificates of before there were rings name none.
    rf"firedoor:role=(mirror|agent|operator);site=({NAME.pattern});(?:ring=({NAME.pattern});)?"
    r"id=([0-9a-f]{32})"
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate, its key (PKCS 8, unsealed) and the fleet's CA, each as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
    ca: bytes


def credentials_of(key: KeyFile) -> Credentials:
    """The TLS identity in a key file.

    Raises:
        Malformed: the file carries no certificate.
    """
    if not key.certificate or not key.ca:
        raise Malformed(f"key {key.name}", wanted="a certificate and a CA inside", got="none")
    private = Ed25519PrivateKey.from_private_bytes(key.tls_seed).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Credentials(key.certificate.encode(), private, key.ca.encode())


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """For the one port of a program: nobody without a certificate of the fleet gets in."""
    context = _own_context(ssl.PROTOCOL_TLS_SERVER, credentials)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """For dialling: the server proves the fleet's CA and the name that was asked for."""
    return _own_context(ssl.PROTOCOL_TLS_CLIENT, credentials)


def enrolment_server_context(credentials: Credentials) -> ssl.SSLContext:
    """For the enrolment listener: the only one that a machine without a certificate can use."""
    context = _own_context(ssl.PROTOCOL_TLS_SERVER, credentials)
    context.verify_mode = ssl.CERT_NONE
    return context


def blind_context() -> ssl.SSLContext:
    """For one request whose answer is proved otherwise: it verifies nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def pinned_context(ca: bytes) -> ssl.SSLContext:
    """For dialling without a certificate of one's own: the server proves this CA and its name."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, ca)


def server_name(id: PeerId) -> str:  # noqa: A002  # the glossary's word
    """The DNS name by which one dialled peer is verified."""
    return f"{id}.id.firedoor.internal"


def role_name(role: Role) -> str:
    """The DNS name by which any dialled peer of a role is verified."""
    return f"{role.value}.role.firedoor.internal"


def peer_of(certificate: Mapping[str, Any] | None, now: UnixTime) -> Peer:
    """The peer that a verified certificate (`getpeercert()`) names.

    Raises:
        Untrusted: there is none, or it names nobody, or it has no dates.
    """
    if not certificate:
        raise Untrusted("peer", wanted="a certificate of this fleet", got="none")
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    try:
        since = ssl.cert_time_to_seconds(str(certificate["notBefore"]))
        until = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    except (KeyError, ValueError) as error:
        raise Untrusted("peer", wanted="dates in its certificate", got=str(error)[:80]) from error
    return _peer(uris, is_current=since <= now < until)


def certificate_of_peer(transport: BaseTransport) -> bytes:
    """The certificate of the other side of a TLS connection, in DER; empty where there is none."""
    held: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    der = held.getpeercert(binary_form=True) if held is not None else None
    return der or b""


def peer_of_certificate(pem: bytes, now: UnixTime) -> Peer:
    """The peer that a certificate file names.

    Raises:
        Malformed: no certificate.
        Untrusted: it names nobody.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise Malformed("certificate", wanted="PEM with names", got=str(error)[:80]) from error
    since = certificate.not_valid_before_utc.timestamp()
    until = certificate.not_valid_after_utc.timestamp()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return _peer(uris, is_current=since <= now < until)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate that this fleet's CA has issued. `public`: its 32-byte key; `der`: itself."""

    peer: Peer
    public: bytes
    der: bytes


def der_of(pem: bytes) -> bytes:
    """A certificate in DER; empty: it is none."""
    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    except ValueError:
        return b""


@lru_cache(maxsize=4096)
def leaf_of(der: bytes, ca: bytes) -> Leaf | None:
    """The leaf in `der`, if the CA (in PEM) has issued it; None: it has not, or it is no leaf.

    Dates are not looked at: what a machine once was says who it is. Whoever asks twice is answered
    from memory, for each costs two verifications.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
        peer = peer_of_certificate(certificate.public_bytes(serialization.Encoding.PEM), _NO_TIME)
        public = certificate.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, FiredoorError):
        return None
    if not isinstance(public, Ed25519PublicKey) or peer_id(public.public_bytes_raw()) != peer.id:
        return None
    return Leaf(peer, public.public_bytes_raw(), der)


def _peer(uris: list[str], *, is_current: bool) -> Peer:
    found = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if found is None:
        raise Untrusted("peer", wanted="role, site and id in its certificate", got=str(uris)[:80])
    return Peer(PeerId(found[4]), Role(found[1]), found[2], is_current, found[3] or RING_DEFAULT)


def _own_context(protocol: int, credentials: Credentials) -> ssl.SSLContext:
    context = _context(protocol, credentials.ca)
    load_identity(context, credentials)
    return context


def _context(protocol: int, ca: bytes) -> ssl.SSLContext:
    # A bare context trusts nobody; create_default_context would add the system's authorities.
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=ca.decode())
    # Python 3.13 sets the strict flag in its default contexts; elsewhere it is ours to set. The pin
    # of a fleet of version 0.1 is a CA without key identifiers, and its leaves have none either.
    strict = ssl.VERIFY_X509_STRICT if has_identifiers(ca) else 0
    context.verify_flags = ssl.VerifyFlags(ssl.VERIFY_X509_TRUSTED_FIRST | strict | _NO_CHECK_TIME)
    return context


def load_identity(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Show this certificate from now on; connections that stand are not touched.

    The ssl module reads keys from files only. On Linux that file is in memory alone, so that the
    private part of a sealed key reaches no disk.
    """
    data = credentials.key + credentials.certificate
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        descriptor = os.memfd_create("identity")
        try:
            os.write(descriptor, data)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    # Elsewhere a folder that is 0700 and gone at once (untested there).
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "identity.pem"
        path.touch(0o600)
        path.write_bytes(data)
        context.load_cert_chain(path)
