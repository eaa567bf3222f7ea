"""Ed25519 keys by PyNaCl inside python-tuf, and the keys of each role as the brake needs them.

* `authority_of` does not judge dates: a wrong clock must not deafen a node to a halt. Whoever
  starts something (a resume, an install) asks `is_fresh`.
* A threshold below 1, one key under two ids, or a key of another kind is refused.

It does not fetch or keep metadata: trust_client.py does.
Source: halt/README.md, Authority; TUF specification 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, Key, SecretsHandler, Signature, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from firedoor.errors import Malformed, Untrusted
from firedoor.identity import FleetId
from firedoor.units import UnixTime

_KIND = ("ed25519", "ed25519")
_PUBLIC_BYTES = 32

_BRAKE_ROLES = ("halt", "resume", "promote", "beacon")

# In the top-level targets of a compaction: which orders of keys that count no more are kept.
SURVIVORS = "x-firedoor-survivors"


class NaclKey(Key):
    """An Ed25519 public key of TUF metadata, verified by libsodium.

    The libsodium key is made at the first verification and kept: 63 µs against 84 (FACTS.md).
    """

    def __init__(
        self,
        keyid: str,
        keytype: str,
        scheme: str,
        keyval: dict[str, Any],
        unrecognized_fields: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(keyid, keytype, scheme, keyval, unrecognized_fields)
        if not isinstance(keyval.get("public"), str):
            raise ValueError(f"key {keyid[:12]}: wanted a public value in hex")  # noqa: TRY004  # python-tuf's contract
        self._verify_key: VerifyKey | None = None

    @classmethod
    def from_dict(cls, keyid: str, key_dict: dict[str, Any]) -> "NaclKey":
        """The key that a dictionary of metadata describes; takes its fields out of it."""
        keytype, scheme, keyval = cls._from_dict(key_dict)
        return cls(keyid, keytype, scheme, keyval, key_dict)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary that `from_dict` takes."""
        return self._to_dict()

    def verify_signature(self, signature: Signature, data: bytes) -> None:
        """Do nothing if the signature is right.

        Raises:
            UnverifiedSignatureError: it is not, or the key or the signature is no hex of its size.
        """
        try:
            if self._verify_key is None:
                self._verify_key = VerifyKey(bytes.fromhex(self.keyval["public"]))
            self._verify_key.verify(data, bytes.fromhex(signature.signature))
        # PyNaCl's own TypeError and ValueError, for wrong sizes, are also Python's.
        except (BadSignatureError, ValueError, TypeError) as error:
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
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> "NaclSigner":
        """Not offered: seeds come from key files only.

        Raises:
            ValueError: always.
        """
        del priv_key_uri, secrets_handler
        raise ValueError(f"key {public_key.keyid[:12]}: wanted a key file, got a URI")

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
    """Who may sign what in a fleet. `is_fresh`: the metadata that says so is within its dates.

    `snapshot_version` is 0 where no snapshot vouches for it. `survivors`: the ids that a compaction
    keeps of the role `compacted`'s orders whose keys count no more, in hex; None: there is none.
    `controllers`: by product and version, whose key may halt that very release, says its publisher.
    """

    fleet: FleetId
    targets_version: int
    roles: Mapping[str, RoleKeys]
    is_fresh: bool
    root_version: int = 0
    snapshot_version: int = 0
    survivors: frozenset[str] | None = None
    compacted: str = ""
    controllers: Mapping[tuple[str, str], RoleKeys] = field(default_factory=dict)

    def has_other_keys_than(self, later: "Authority") -> bool:
        """Whether the keys that count may have changed between this and `later`."""
        is_same = self.targets_version == later.targets_version
        return not is_same or self.controllers != later.controllers

    def has_other_brake_keys_than(self, later: "Authority") -> bool:
        """Whether keys have turned that change what a conversation about orders comes to."""
        return any(self.roles.get(role) != later.roles.get(role) for role in _BRAKE_ROLES)


def controller_of(public: str) -> RoleKeys:
    """The role of a release's controller: one key, given by its public half in hex."""
    return RoleKeys(1, {public_key(public).keyid: bytes.fromhex(public)})


def register() -> None:
    """Make python-tuf verify Ed25519 by PyNaCl from now on, in this process."""
    KEY_FOR_TYPE_AND_SCHEME[_KIND] = NaclKey


def key_of(seed: bytes) -> NaclKey:
    """The public key of a 32-byte seed."""
    return public_key(bytes(SigningKey(seed).verify_key).hex())


def public_key(public: str) -> NaclKey:
    """The key with this public half, in hex, and the key id that every TUF tool computes."""
    keytype, scheme = _KIND
    keyval = {"public": public}
    # securesystemslib's own rule: SHA-256 of the canonical JSON of the key.
    plain = encode_canonical({"keytype": keytype, "scheme": scheme, "keyval": keyval})
    assert plain is not None, "encode_canonical returns text when it has no output function"
    return NaclKey(sha256(plain.encode()).hexdigest(), keytype, scheme, keyval)


def authority_of(
    root: Metadata[Root], targets: Metadata[Targets], *, fleet: FleetId, now: UnixTime
) -> Authority:
    """The delegated roles of `targets`, which `root`'s targets role must have signed.

    Raises:
        Untrusted: `targets` is not signed by the threshold of root's keys.
        Malformed: it delegates nothing by name, or a role's threshold or keys are not usable.
    """
    # Root's keys sign root too, and python-tuf's parser returns whatever type the bytes name.
    if not isinstance(root.signed, Root) or not isinstance(targets.signed, Targets):
        raise Malformed("targets", wanted="metadata of type targets", got=targets.signed.type)
    threshold = root.signed.roles["targets"].threshold
    if threshold < 1:
        raise Malformed(
            "root's targets role", wanted="a threshold of 1 or more", got=f"{threshold}"
        )
    try:
        root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise Untrusted("targets", wanted="the fleet's root signatures", got=str(error)) from error
    delegations = targets.signed.delegations
    if delegations is None or delegations.roles is None:
        raise Malformed("targets", wanted="delegations by name", got="none")
    roles = {
        name: _role_keys(f"role {name[:80]}", role.threshold, role.keyids, delegations.keys)
        for name, role in delegations.roles.items()
    }
    is_fresh = now < targets.signed.expires.timestamp()
    role, survivors = _survivors(targets.signed.unrecognized_fields.get(SURVIVORS))
    return Authority(
        fleet,
        targets.signed.version,
        roles,
        is_fresh,
        root_version=root.signed.version,
        survivors=survivors,
        compacted=role,
    )


def _survivors(field: object) -> tuple[str, frozenset[str] | None]:
    if field is None:
        return "", None
    if not isinstance(field, dict) or set(field) != {"role", "ids"}:
        raise Malformed(SURVIVORS, wanted="a role and ids", got=type(field).__name__)
    role, ids = field["role"], field["ids"]
    if not isinstance(role, str) or not isinstance(ids, list):
        raise Malformed(SURVIVORS, wanted="a role and a list of ids", got="other types")
    return role, frozenset(map(str, ids))


def _role_keys(what: str, threshold: int, keyids: list[str], keys: Mapping[str, Key]) -> RoleKeys:
    if threshold < 1:
        # A threshold of 0 turns verification off (go-tuf, GHSA-fphv-w9fq-2525).
        raise Malformed(what, wanted="a threshold of 1 or more", got=str(threshold))
    if len(set(keyids)) != len(keyids):
        raise Malformed(what, wanted="distinct key ids", got="one twice")
    publics = {keyid: _public(what, keys.get(keyid)) for keyid in keyids}
    # One key under two ids would count twice towards a threshold.
    if len(set(publics.values())) != len(publics):
        raise Malformed(what, wanted="distinct keys", got="one key under two ids")
    if len(publics) < threshold:
        raise Malformed(what, wanted=f"{threshold} keys, its threshold", got=str(len(publics)))
    return RoleKeys(threshold, publics)


def _public(what: str, key: Key | None) -> bytes:
    if key is None:
        raise Malformed(what, wanted="every key that it names", got="an id without a key")
    if (key.keytype, key.scheme) != _KIND:
        raise Malformed(what, wanted="ed25519 keys", got=f"{key.keytype}/{key.scheme}"[:80])
    try:
        public = bytes.fromhex(key.keyval["public"])
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(what, wanted="public keys in hex", got="another text") from error
    if len(public) != _PUBLIC_BYTES:
        raise Malformed(what, wanted="public keys of 32 bytes", got=f"{len(public)} bytes")
    return public
