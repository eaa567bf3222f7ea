"""Signatures over domain-separated bytes: fleet and kind are part of what is signed."""

from collections.abc import Sequence

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from firedoor.identity import FleetId
from firedoor.trust.keys import Authority


def signed_bytes(fleet: FleetId, kind: str, payload: bytes) -> bytes:
    """What a signature of this kind covers. The zero byte ends the prefix for good."""
    return f"firedoor/{fleet}/{kind}/v1\0".encode() + payload


def sign(seed: bytes, message: bytes) -> bytes:
    """The 64-byte Ed25519 signature of `message`."""
    return SigningKey(seed).sign(message).signature


def verified_keyids(
    authority: Authority, role: str, message: bytes, signatures: Sequence[tuple[str, bytes]]
) -> frozenset[str]:
    """The keys of `role` whose signatures over `message` are right; never raises on bad input."""
    keys = authority.roles.get(role)
    if keys is None:
        return frozenset()
    return frozenset(
        keyid
        for keyid, value in signatures
        if keyid in keys.keys and _is_right(keys.keys[keyid], message, value)
    )


def _is_right(public: bytes, message: bytes, value: bytes) -> bool:
    try:
        VerifyKey(public).verify(message, value)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
