"""What a beacon key says: which orders are durable here, leases, and that it vouches for another's.

The origin has one; so may a mirror, in `beacon.key` of its state folder. It counts once root's
metadata names it: by itself it is a second origin's, with others it is a witness's.
"""

import os
from pathlib import Path

from firedoor.errors import Malformed
from firedoor.halt.envelope import countersigned, seal
from firedoor.halt.lease import LeasePayload
from firedoor.halt.merkle import root_of
from firedoor.halt.order import BeaconPayload
from firedoor.identity import FleetId
from firedoor.runtime.keys.key_files import BEACON_KEY, KeyFile, read_key_file
from firedoor.trust.keys import Authority, key_of


class BeaconSigner:
    """One beacon key at work."""

    def __init__(self, key: KeyFile) -> None:
        self._fleet = FleetId(key.fleet)
        self._keys = {key.keyid: key.signing_seed}
        self.keyid = key.keyid

    def beacon(self, ids: tuple[bytes, ...]) -> bytes:
        """The signed record that says which orders are durable here."""
        return self.sign(BeaconPayload(1, ids), "beacon")

    def lease(self, ids: tuple[bytes, ...], nonces: bytes, held: Authority) -> bytes:
        """The signed answer to these nonces: so many orders, these, and metadata as in `held`."""
        payload = LeasePayload(
            version=1,
            root=held.root_version,
            targets=held.targets_version,
            snapshot=held.snapshot_version,
            count=len(ids),
            orders=root_of(ids),
            nonces=nonces,
        )
        return self.sign(payload, "lease")

    def sign(self, payload: object, kind: str) -> bytes:
        """A record of this kind."""
        return seal(kind, payload, fleet=self._fleet, keys=self._keys)[1]

    def vouch(self, record: bytes) -> bytes:
        """The origin's record, by this key; the node has judged that it may be signed."""
        return countersigned(record, fleet=self._fleet, keys=self._keys)


def nobody(fleet: FleetId) -> BeaconSigner:
    """A signer that no metadata names, where the key is lost: what it signs counts nowhere."""
    secret = os.urandom(64)
    public = key_of(secret[:32])
    return BeaconSigner(
        KeyFile("beacon", "lost", fleet, public.keyid, public.keyval["public"], secret.hex())
    )


def own_signer(state: Path, fleet: FleetId) -> BeaconSigner | None:
    """The signer of a mirror that is not the origin; None: it has no beacon key.

    Raises:
        Unavailable, Malformed: the file cannot be read, or is another fleet's or role's.
    """
    path = state / BEACON_KEY
    if not path.exists():
        return None
    key = read_key_file(path, lambda: "")
    if (key.role, key.fleet) != ("beacon", fleet):
        got = f"role {key.role} of fleet {key.fleet[:12]}"
        raise Malformed(str(path), wanted=f"role beacon of fleet {fleet[:12]}", got=got)
    return BeaconSigner(key)
