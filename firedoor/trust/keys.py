"""Ed25519 keys by PyNaCl inside python-tuf, and the keys of each role as the brake needs them.

`authority_of` does not judge dates: a wrong clock must not deafen a node to a halt. Whoever starts
something (a resume, an install) asks `is_fresh`. Source: halt.md, Authority; TUF specification 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, Key, Signature, Signer, SSlibKey
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from firedoor.errors import Malformed, Untrusted
from firedoor.identity import FleetId
from firedoor.units import UnixTime

_KIND = ("ed25519", "ed25519")


class NaclKey(SSlibKey):
    """An Ed25519 public key of TUF metadata, verified by libsodium (63 µs, facts.md)."""

    def verify_signature(self, signature: Signature, data: bytes) -> None:
        """Nothing, if the signature is right; raises UnverifiedSignatureError otherwise."""
        try:
            key = VerifyKey(bytes.fromhex(self.keyval["public"]))
            key.verify(data, bytes.fromhex(signature.signature))
        except (BadSignatureError, ValueError, TypeError, KeyError) as error:
            raise UnverifiedSignatureError(f"by key {self.keyid[:12]}") from error


class NaclSigner(Signer):
    """Signs TUF metadata with a 32-byte seed."""

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self._public = key_of(seed)

    @property
    def public_key(self) -> Key:
        """The key that verifies what this signs."""
        return self._public

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: Any = None
    ) -> "NaclSigner":
        """Not offered: seeds come from key files only."""
        raise ValueError(f"no key by URI: {priv_key_uri[:20]}, {public_key.keyid}, {secrets_handler}")

    def sign(self, payload: bytes) -> Signature:
        """The signature of `payload`."""
        return Signature(self._public.keyid, self._key.sign(payload).signature.hex())


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """The keys of one role (key id to 32-byte public key) and how many must sign."""

    threshold: int
    keys: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Authority:
    """Who may sign what in a fleet. `is_fresh`: the metadata that says so is within its dates."""

    fleet: FleetId
    targets_version: int
    roles: Mapping[str, RoleKeys]
    is_fresh: bool


def register() -> None:
    """Make python-tuf verify Ed25519 by PyNaCl from now on, in this process."""
    KEY_FOR_TYPE_AND_SCHEME[_KIND] = NaclKey


def key_of(seed: bytes) -> NaclKey:
    """The public key of a seed, with the key id that every TUF tool computes."""
    public = bytes(SigningKey(seed).verify_key)
    # The key id is the digest of the key's canonical form; securesystemslib computes it.
    plain = SSlibKey.from_crypto(_crypto_key(public))
    return NaclKey(plain.keyid, *_KIND, {"public": public.hex()})


def authority_of(
    root: Metadata[Root], targets: Metadata[Targets], *, fleet: FleetId, now: UnixTime
) -> Authority:
    """The delegated roles of `targets`, which `root`'s targets role must have signed.

    Raises:
        Untrusted: `targets` is not signed by the threshold of root's keys.
        Malformed: a role's keys are not Ed25519, or it names none.
    """
    try:
        root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise Untrusted("targets", wanted="the fleet's root signatures", got=str(error)) from error
    delegations = targets.signed.delegations
    if delegations is None or delegations.roles is None:
        raise Malformed("targets", wanted="delegations by role", got="none")
    roles = {
        name: _role_keys(name, role.threshold, role.keyids, delegations.keys)
        for name, role in delegations.roles.items()
    }
    is_fresh = now < targets.signed.expires.timestamp()
    return Authority(fleet, targets.signed.version, roles, is_fresh)


def _role_keys(
    name: str, threshold: int, keyids: list[str], keys: Mapping[str, Key]
) -> RoleKeys:
    if threshold < 1 or len(keyids) < threshold:
        raise Malformed(f"role {name}", wanted="keys for its threshold", got=str(len(keyids)))
    publics: dict[str, bytes] = {}
    for keyid in keyids:
        key = keys[keyid]
        if (key.keytype, key.scheme) != _KIND:
            raise Malformed(f"role {name}", wanted="ed25519 keys", got=key.scheme)
        publics[keyid] = bytes.fromhex(key.keyval["public"])
    # One key under two ids would count twice towards a threshold.
    if len(set(publics.values())) != len(publics):
        raise Malformed(f"role {name}", wanted="distinct keys", got="one key under two ids")
    return RoleKeys(threshold, publics)


def _crypto_key(public: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415  # keys only
        Ed25519PublicKey,
    )

    return Ed25519PublicKey.from_public_bytes(public)
