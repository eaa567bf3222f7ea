"""The fleet's own certificate authority: Ed25519, names by role and id, seven days a leaf.

A certificate says who a peer is (id, role, site) and nothing about what it may do now; orders
reach expired ones too. Source: halt.md, Authority; facts.md, mTLS.
"""

import datetime
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firedoor.errors import Malformed
from firedoor.identity import PeerId, Role, checked_name
from firedoor.units import UnixTime

CERTIFICATE_DAYS = 7
_AUTHORITY_DAYS = 3650

# A leaf is valid a little before its making, for machines whose clocks run behind.
_BACKDATE = datetime.timedelta(hours=1)


def make_authority(name: str, seed: bytes, now: UnixTime) -> bytes:
    """A self-signed CA certificate, as PEM."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Firedoor {name}"[:60])])
    builder = _builder(subject, subject, key.public_key(), now, _AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(is_authority=True), critical=True)
    return _pem(builder.sign(key, None))


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
    span_days: float = CERTIFICATE_DAYS,
) -> bytes:
    """A leaf for the key in the request, as PEM. Role and site are the issuer's word.

    Raises:
        Malformed: no Ed25519 request that its own key signed.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem)
    except ValueError as error:
        raise Malformed("certificate request", wanted="PEM", got=str(error)) from error
    public = request.public_key()
    if not isinstance(public, Ed25519PublicKey) or not request.is_signature_valid:
        raise Malformed("certificate request", wanted="a self-signed Ed25519 key", got="another")
    checked_name("site", site)
    peer = peer_id(public.public_bytes_raw())
    authority = x509.load_pem_x509_certificate(ca_pem)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, peer)])
    names: list[x509.GeneralName] = [
        x509.DNSName(f"{peer}.id.firedoor.internal"),
        x509.DNSName(f"{role.value}.role.firedoor.internal"),
        x509.UniformResourceIdentifier(f"firedoor:role={role.value};site={site};id={peer}"),
    ]
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = _builder(subject, authority.subject, public, now, span_days)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(_usage(is_authority=False), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return _pem(builder.sign(Ed25519PrivateKey.from_private_bytes(ca_seed), None))


def peer_id(public: bytes) -> PeerId:
    """The id of the holder of this public key."""
    return PeerId(sha256(public).hexdigest()[:32])


def fingerprint(pem: bytes) -> str:
    """SHA-256 of a certificate's DER, in hex."""
    certificate = x509.load_pem_x509_certificate(pem)
    return sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: Ed25519PublicKey,
    now: UnixTime,
    days: float,
) -> x509.CertificateBuilder:
    made = datetime.datetime.fromtimestamp(now, datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(public).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(made - _BACKDATE)
    return builder.not_valid_after(made + datetime.timedelta(days=days))


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
