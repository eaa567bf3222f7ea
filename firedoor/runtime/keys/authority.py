"""The fleet's own certificate authority: Ed25519, names by role and id, seven days a leaf.

A certificate says who a peer is (id, role, site, ring) and nothing about what it may do now; orders
reach expired ones too. Source: halt/README.md, Authority; FACTS.md, mTLS.
"""

import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firedoor.errors import Malformed, Untrusted
from firedoor.identity import RING_DEFAULT, PeerId, Role, checked_name
from firedoor.units import UnixTime

# A banned machine that the origin cannot reach stops being current within a week (halt/README.md).
CERTIFICATE_DAYS = 7

# An operator's or publisher's, and the origin's own: orders reach the fleet past its dates too.
OPERATOR_DAYS = 365

# The CA outlives the machines of its fleet; its key stays with the origin.
_AUTHORITY_DAYS = 3650

# A leaf is valid a little before its making, for machines whose clocks run behind.
_BACKDATE = timedelta(hours=1)


def make_authority(name: str, seed: bytes, now: UnixTime | None = None) -> bytes:
    """A self-signed CA certificate for the key of `seed`, as PEM; it begins `now`, or today."""
    now = UnixTime(int(time.time())) if now is None else now
    key = Ed25519PrivateKey.from_private_bytes(seed)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Firedoor {name}"[:60])])
    builder = _builder(subject, subject, key.public_key(), now, _AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(is_authority=True), critical=True)
    builder = _with_identifiers(builder, key.public_key(), key.public_key())
    return _pem(builder.sign(key, None))


def renew_authority(ca_pem: bytes, seed: bytes, now: UnixTime) -> bytes:
    """The CA certificate made again for the same name and key, as today's program makes it.

    Leaves of either verify by both, but that whoever holds the new one asks for key identifiers.

    Raises:
        Malformed: `ca_pem` is no certificate, or the key of `seed` is not its key.
    """
    try:
        old = x509.load_pem_x509_certificate(ca_pem)
    except ValueError as error:
        raise Malformed("CA certificate", wanted="PEM", got=str(error)[:80]) from error
    own = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    if old.public_key() != own:
        raise Malformed("CA certificate", wanted="the key of ca.key", got="another key")
    (name,) = old.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return make_authority(str(name.value).removeprefix("Firedoor "), seed, now)


def has_identifiers(pem: bytes) -> bool:
    """Whether a certificate names its key, as RFC 5280 asks (4.2.1.2); those of 0.1 do not.

    Raises:
        Malformed: no certificate.
    """
    try:
        extensions = x509.load_pem_x509_certificate(pem).extensions
    except ValueError as error:
        raise Malformed("certificate", wanted="PEM", got=str(error)[:80]) from error
    return any(isinstance(each.value, x509.SubjectKeyIdentifier) for each in extensions)


def make_request(seed: bytes) -> bytes:
    """A certificate request for the key of `seed`, as PEM; it names nothing but the key."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None)
    return request.public_bytes(serialization.Encoding.PEM)


def issue(
    request_pem: bytes,
    *,
    ca_pem: bytes,
    ca_seed: bytes,
    role: Role,
    site: str,
    now: UnixTime,
    ring: str = RING_DEFAULT,
    span_days: float = CERTIFICATE_DAYS,
) -> bytes:
    """A leaf for the key in the request, as PEM. Role, site and ring are the issuer's word.

    Raises:
        Malformed: no certificate request for an Ed25519 key, or no name for a site or a ring.
        Untrusted: the request is not signed by its own key.
    """
    checked_name("site", site)
    checked_name("ring", ring)
    public = _requested_key(request_pem)
    peer = peer_id(public.public_bytes_raw())
    authority = x509.load_pem_x509_certificate(ca_pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer)])
    names: list[x509.GeneralName] = [
        x509.DNSName(f"{peer}.id.firedoor.internal"),
        x509.DNSName(f"{role.value}.role.firedoor.internal"),
        x509.UniformResourceIdentifier(
            f"firedoor:role={role.value};site={site};ring={ring};id={peer}"
        ),
    ]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = _builder(subject, authority.subject, public, now, span_days)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(_usage(is_authority=False), critical=True)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    issuer = Ed25519PrivateKey.from_private_bytes(ca_seed).public_key()
    builder = _with_identifiers(builder, public, issuer)
    return _pem(builder.sign(Ed25519PrivateKey.from_private_bytes(ca_seed), None))


def id_of_request(request_pem: bytes) -> PeerId:
    """The id of the key that a certificate request is for.

    Raises:
        Malformed: no Ed25519 request.
        Untrusted: whoever made it does not hold that key.
    """
    return peer_id(_requested_key(request_pem).public_bytes_raw())


def peer_id(public: bytes) -> PeerId:
    """The id of the holder of this public key."""
    return PeerId(sha256(public).hexdigest()[:32])


def fingerprint(pem: bytes) -> str:
    """SHA-256 of a certificate's DER, in hex."""
    certificate = x509.load_pem_x509_certificate(pem)
    return sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _requested_key(request_pem: bytes) -> Ed25519PublicKey:
    what = "certificate request"
    try:
        request = x509.load_pem_x509_csr(request_pem)
        public = request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed(what, wanted="PEM", got=str(error)[:80]) from error
    if not isinstance(public, Ed25519PublicKey):
        raise Malformed(what, wanted="an Ed25519 key", got=type(public).__name__)
    # Who cannot sign with the key does not hold it, and would take over its owner's id.
    if not request.is_signature_valid:
        raise Untrusted(what, wanted="a signature by its own key", got="another")
    return public


def _builder(
    subject: x509.Name, issuer: x509.Name, public: Ed25519PublicKey, now: UnixTime, days: float
) -> x509.CertificateBuilder:
    made = datetime.fromtimestamp(now, UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(public).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(made - _BACKDATE)
    return builder.not_valid_after(made + timedelta(days=days))


def _with_identifiers(
    builder: x509.CertificateBuilder, own: Ed25519PublicKey, issuer: Ed25519PublicKey
) -> x509.CertificateBuilder:
    """Add the two key identifiers that a conforming authority must set (RFC 5280, 4.2.1.1 and 2).

    Python 3.13 and newer refuse certificates without them.
    """
    subject = x509.SubjectKeyIdentifier.from_public_key(own)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)
    builder = builder.add_extension(subject, critical=False)
    return builder.add_extension(authority, critical=False)


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
