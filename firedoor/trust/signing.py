"""Signatures over domain-separated bytes: fleet and kind are part of what is signed.

It does not know thresholds' meaning or any record: halt/order.py counts what is returned here.
Source: halt/README.md, Records.
"""

from collections.abc import Sequence

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from firedoor.identity import FleetId
from firedoor.limits import SIGNATURES_MAX
from firedoor.trust.keys import RoleKeys


def signed_bytes(fleet: FleetId, kind: str, payload: bytes) -> bytes:
    """What a signature of this kind covers. The zero byte ends the prefix for good."""
    return f"firedoor/{fleet}/{kind}/v1\0".encode() + payload


def sign(seed: bytes, message: bytes) -> bytes:
    """The 64-byte Ed25519 signature of `message` by the key of a 32-byte seed."""
    return SigningKey(seed).sign(message).signature


def verified_keyids(
    role: RoleKeys | None, message: bytes, signatures: Sequence[tuple[str, bytes]]
) -> frozenset[str]:
    """The distinct keys of `role` whose signatures over `message` are right.

    Unknown and wrong ones are ignored; looks at the first SIGNATURES_MAX only, because each costs
    a verification, and never raises on hostile input.
    """
    if role is None:
        return frozenset()
    return frozenset(
        keyid
        for keyid, value in signatures[:SIGNATURES_MAX]
        if keyid in role.keys and _is_right(role.keys[keyid], message, value)
    )


def _is_right(public: bytes, message: bytes, value: bytes) -> bool:
    try:
        VerifyKey(public).verify(message, value)
    # PyNaCl's own TypeError and ValueError, for wrong sizes, are also Python's.
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
