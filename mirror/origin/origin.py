"""The origin: takes in releases and enrolments, and signs what must be signed online.

* A release is believed as an endpoint would believe it, and only when all its pieces are here.
* The keys here (CA, snapshot, timestamp, beacon) make nothing that an endpoint would run.
* Nothing is answered before it is durable.

It decides nothing about orders: the node does; a beacon only repeats what is recorded.
"""

import asyncio
import json
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from tuf.api.metadata import Metadata, Root, Targets

from firedoor.errors import Malformed, Unavailable, Untrusted
from firedoor.identity import RING_DEFAULT, Peer, PeerId, Role
from firedoor.limits import ENROLMENT_BYTES_MAX, MANIFEST_BYTES_MAX, METADATA_BYTES_MAX
from firedoor.pieces.manifest_reading import LARGE, Bound
from firedoor.runtime.files import durable_write, sync_folder
from firedoor.runtime.keys.authority import (
    OPERATOR_DAYS,
    has_identifiers,
    id_of_request,
    issue,
    make_request,
)
from firedoor.runtime.keys.key_files import KeyFile, read_key_file, replace_certificate
from firedoor.runtime.keys.operator_proof import Request, check_proof, read_operators
from firedoor.runtime.keys.tls import leaf_of
from firedoor.runtime.logs import log
from firedoor.runtime.metadata.owners import Owners
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.runtime.program.renewal import is_past_half
from firedoor.runtime.storage.piece_store import PieceStore
from firedoor.trust.keys import NaclSigner
from firedoor.trust.repository import GRANTS
from firedoor.units import UnixTime
from firedoor.wire.codec import decode, record
from firedoor.wire.json_text import json_map
from firedoor.wire.messages import Report
from mirror.beacon_key import BeaconSigner, nobody
from mirror.origin.enrolments import Enrolments, Grant
from mirror.origin.incoming import Incoming
from mirror.origin.online_keys import OnlineKeys
from mirror.origin.repository import MetadataFolder, Offer, Repository, check_offer, parse
from mirror.origin.rotation import (
    ROTATION_BYTES_MAX,
    Rotation,
    check_rotation,
    files_of,
    online_keyids,
    publishers,
)

_TARGET_DIGITS = 64

NOBODY = PeerId("")
"""Who uploads no piece: a release whose pieces are all here."""

# A rotation that was accepted and may not be carried through yet.
_PENDING = "rotation.pending"


@dataclass(frozen=True, slots=True)
class EnrolmentRequest:
    """What a new machine sends: the token's secret and a certificate request in PEM."""

    secret: Annotated[str, Meta(max_length=128)]
    request: Annotated[str, Meta(max_length=ENROLMENT_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Published:
    """A release that is in the repository now."""

    product: str
    version: str
    manifest: str


class Origin:
    """The origin's folder, its online keys and its state; blocking but for what is `async`.

    `signer`: by the beacon key that counts now; `enrolments`: whom this origin knows; `incoming`:
    pieces that no release names yet.
    """

    def __init__(
        self,
        folder: Path,
        state: Path,
        *,
        store: PieceStore,
        passphrase: Callable[[], str],
        unix: Callable[[], UnixTime] = lambda: UnixTime(int(time.time())),
        bound: Bound = LARGE,
    ) -> None:
        self._unix = unix
        self.bound = bound
        self._folder = folder
        self._keys = OnlineKeys(folder, passphrase)
        self._store = store
        self.incoming = Incoming(state / "incoming", store)
        self._manifests = folder / "targets"
        self._manifests.mkdir(exist_ok=True)
        self._ca_seed = read_key_file(folder / "ca.key", passphrase).signing_seed
        self.ca = _read(folder / "ca.pem")
        self.root = _read(folder / "root.json")
        self._fleet = fleet_of(self.root)
        # Replaced by the beacon key that metadata names, below.
        self.signer = nobody(self._fleet)
        self._metadata = MetadataFolder(folder / "metadata")
        self._owners = Owners(folder / "owners.json")
        self._finish_rotation()
        self.enrolments = Enrolments(state / "origin.sqlite")
        # One writer of the repository at a time; requests come in threads.
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the state."""
        self.enrolments.close()

    # --- metadata ------------------------------------------------------------------------------

    async def get(self, path: str, limit: int) -> bytes:
        """The metadata file or manifest at a /v1 path, from the origin's own folder.

        Raises:
            Unavailable: there is none, or it is above `limit`.
        """
        return await asyncio.to_thread(self._get, path, limit)

    def accept_release(
        self, role: str, metadata: bytes, manifest: bytes, publisher: PeerId = NOBODY
    ) -> Published:
        """Add one release to the repository, durably; `publisher` has uploaded its pieces.

        Raises:
            Refused: an endpoint would not believe it, or it is not the next version.
            Unavailable: pieces are missing here, or the disk fails.
        """
        now = self._unix()
        with self._lock:
            repository = self._metadata.load()
            old = self._metadata.current(repository, role)
            offer = check_offer(
                repository,
                old,
                role=role,
                data=metadata,
                manifest=manifest,
                now=now,
                bound=self.bound,
            )
            self._check_owner(repository, role, old, offer)
            pieces = [piece.digest for file in offer.manifest.files for piece in file.pieces]
            missing = self.missing(pieces)
            lacking = [each for each in missing if not self.incoming.holds(publisher, each)]
            if lacking:
                raise Unavailable(offer.path, why=f"{len(lacking)} piece(s) are not uploaded")
            self.incoming.settle(publisher, missing)
            self._store.sync(pieces)
            durable_write(self._manifests / offer.digest, manifest)
            self._metadata.add(role, offer.version, metadata, now)
            self.incoming.finish(publisher, pieces)
        return Published(offer.manifest.product, offer.manifest.version, offer.digest)

    def _check_owner(
        self, repository: Repository, role: str, old: Metadata[Targets], offer: Offer
    ) -> None:
        """Nothing, unless the product is another publisher's: by root's word, or by its list.

        A grant counts even where somebody else's list had the product first, and a product whose
        publisher was removed is nobody's until it is granted.
        """
        product, targets = offer.manifest.product, repository.targets.signed
        found = targets.unrecognized_fields.get(GRANTS)
        grants = found if isinstance(found, dict) else {}
        lists = []
        for each in publishers(targets):
            rows = old if each == role else self._metadata.current(repository, each)
            lists.append((each, {path.split("/")[1] for path in rows.signed.targets}))
        self._owners.settle(lists, grants)
        owner = self._owners.of(product, grants)
        if owner not in {None, role}:
            raise Untrusted(f"product {product}", wanted=f"its publisher's key, {owner}", got=role)
        self._owners.settle([(role, {product})], grants)

    # --- keys ----------------------------------------------------------------------------------

    def check_operator(self, header: str, request: Request, now: UnixTime) -> None:
        """Nothing, if an operator has signed this request; raises as `check_proof`.

        A fleet of 0.1 has not named its operators yet: there any key file will do, as it did.
        """
        operators = read_operators(self._folder)
        if operators is None:
            log("operators-not-named", level="error", do="firedoor keys operators ORIGIN FILE")
            return
        check_proof(header, request, operators, self._fleet, now)

    def fresh_key(self, role: str) -> str:
        """The public half, in hex, of a new online key; root or targets must name it to count.

        Raises:
            Malformed: no online role.
        """
        with self._lock:
            return self._keys.fresh(role).public

    def accept_rotation(self, body: bytes) -> None:
        """Turn keys as root has signed it.

        Raises:
            Refused: an endpoint would not follow it, or an online key that it names is not here.
        """
        change = decode(Rotation, body, what="rotation", limit=ROTATION_BYTES_MAX)
        now = self._unix()
        with self._lock:
            repository = self._metadata.load()
            lists = {
                role: self._metadata.current(repository, role)
                for role in publishers(repository.targets.signed)
            }
            checked = check_rotation(repository, lists, change, now)
            for role, keyids in online_keyids(checked.root, checked.targets).items():
                if not self._keys.holds(role, keyids):
                    raise Malformed(f"role {role}", wanted="a key of this origin", got="another")
            # From here on a crash is followed by the rest of it, at the next start.
            durable_write(self._folder / _PENDING, body)
            self._finish_rotation()

    def _finish_rotation(self) -> None:
        """Carry through a rotation that was begun, and sign with the keys that count now."""
        path = self._folder / _PENDING
        if path.exists():
            change = decode(Rotation, _read(path), what=str(path), limit=ROTATION_BYTES_MAX)
            files, versions = files_of(change)
            self._metadata.keep(files)
            repository = self._metadata.load()
            targets = parse(change.targets, Targets, what="targets") if change.targets else None
            self._use_keys(repository.root, targets or repository.targets)
            self._metadata.point_to(versions, self._unix())
            path.unlink()
            sync_folder(self._folder)
        repository = self._metadata.load()
        self._use_keys(repository.root, repository.targets)

    def _use_keys(self, root: Metadata[Root], targets: Metadata[Targets]) -> None:
        """Sign by the keys that count; where one is lost nothing is signed in its place."""
        keys: dict[str, KeyFile] = {}
        for role, keyids in online_keyids(root, targets).items():
            try:
                keys[role] = self._keys.of(role, keyids)
            except Unavailable as error:
                # Root can name another only while this origin runs.
                do = f"firedoor keys rotate {role}"
                log("online-key-lost", level="error", role=role, why=str(error), do=do)
        self.signer = BeaconSigner(keys["beacon"]) if "beacon" in keys else nobody(self._fleet)
        self._metadata.sign_with(
            **{
                role: NaclSigner(keys[role].signing_seed) if role in keys else None
                for role in ("snapshot", "timestamp")
            }
        )

    def missing(self, digests: list[bytes]) -> list[bytes]:
        """Those of `digests` that are not in the piece store, each once, in order."""
        return [digest for digest in dict.fromkeys(digests) if not self._store.has(digest)]

    def resign_timestamp(self) -> bool:
        """Sign timestamp and snapshot anew when they are past half their life; whether any was."""
        with self._lock:
            return self._metadata.refresh(self._unix())

    def later_roots(self) -> tuple[bytes, ...]:
        """Every root after the first, in order: the way from the first to today's."""
        found: list[bytes] = []
        with suppress(Unavailable):
            while True:
                found.append(self._metadata.read(f"{len(found) + 2}.root.json"))
        return tuple(found)

    # --- enrolment -----------------------------------------------------------------------------

    def enrolled(self) -> list[Report]:
        """An empty report for every endpoint that was ever enrolled."""
        peers = self.enrolments.peers(Role.AGENT)
        return [Report(peer, Role.AGENT.value, site, (), ()) for peer, site in peers]

    def issue_token(self, role: Role, site: str, span_s: int, ring: str = RING_DEFAULT) -> str:
        """The secret of a new token; raises as `Enrolments.issue`."""
        return self.enrolments.issue(role, site, span_s=span_s, now=self._unix(), ring=ring)

    async def enrol(self, body: bytes) -> bytes:
        """The answer to an enrolment: certificate, CA, first root, role, site, ring, id, as JSON.

        Raises:
            Malformed: no such request.
            Untrusted: the token is not open.
        """
        return await asyncio.to_thread(self._enrol, body)

    async def renew(self, body: bytes, asker: Peer, shown: bytes = b"") -> bytes:
        """A new certificate for the peer that signed this request, both as PEM.

        An operator's own renews itself by the certificate that it has; all others were enrolled, or
        show (`shown`, in DER) that they were: an origin restored from a backup has forgotten some.

        Raises:
            Malformed: no such request.
            Untrusted: the key was never enrolled.
        """
        if asker.role is Role.OPERATOR and id_of_request(body) == asker.id:
            return await asyncio.to_thread(self._issue_operator, body, self._unix())
        return await asyncio.to_thread(self._renew, body, shown)

    def _enrol(self, body: bytes) -> bytes:
        asked = record(EnrolmentRequest, json_map(body, "enrolment"), what="enrolment")
        request = asked.request.encode()
        now = self._unix()
        # Read before the token is used up: a broken request must not cost one.
        peer = id_of_request(request)
        grant = self.enrolments.redeem(asked.secret, peer, now)
        certificate = self._issue(request, grant, now)
        answer = {
            "certificate": certificate.decode(),
            "ca": self.ca.decode(),
            "root": b64encode(self.root).decode(),
            "role": grant.role.value,
            "site": grant.site,
            "ring": grant.ring,
            "id": peer,
        }
        return json.dumps(answer).encode()

    def _renew(self, body: bytes, shown: bytes) -> bytes:
        now, peer = self._unix(), id_of_request(body)
        leaf = leaf_of(shown, self.ca) if shown else None
        if leaf is not None and leaf.peer.id == peer and leaf.peer.role is not Role.OPERATOR:
            self.enrolments.put_back(leaf.peer, now)
        grant = self.enrolments.renew(peer, now)
        return self._issue(body, grant, now)

    async def certify(self, request: bytes) -> bytes:
        """The first certificate of a key file that an operator has made: of a publisher, for one.

        Raises:
            Malformed: no such request.
        """
        return await asyncio.to_thread(self._issue_operator, request, self._unix())

    def _issue_operator(self, request: bytes, now: UnixTime) -> bytes:
        return issue(
            request,
            ca_pem=self.ca,
            ca_seed=self._ca_seed,
            role=Role.OPERATOR,
            site="headquarters",
            now=now,
            span_days=OPERATOR_DAYS,
        )

    def _issue(self, request: bytes, grant: Grant, now: UnixTime) -> bytes:
        return issue(
            request,
            ca_pem=self.ca,
            ca_seed=self._ca_seed,
            role=grant.role,
            site=grant.site,
            ring=grant.ring,
            now=now,
        )

    def _get(self, path: str, limit: int) -> bytes:
        folder, _, name = path.removeprefix("/v1/").partition("/")
        if folder == "metadata":
            data = self._metadata.read(name)
        elif folder == "targets":
            data = self._manifest(name.rpartition("/")[2].partition(".")[0])
        else:
            raise Unavailable(path, why="the origin has no such file")
        if len(data) > min(limit, max(METADATA_BYTES_MAX, MANIFEST_BYTES_MAX)):
            raise Unavailable(path, why=f"it is above {limit} bytes")
        return data

    def _manifest(self, digest: str) -> bytes:
        if len(digest) != _TARGET_DIGITS or not set(digest) <= set("0123456789abcdef"):
            raise Unavailable(f"manifest {digest[:12]!r}", why="the origin has no such file")
        data = _read(self._manifests / digest)
        found = sha256(data).hexdigest()
        if found != digest:
            raise Untrusted("manifest", wanted=digest[:12], got=found[:12])
        return data


def renew_origin(folder: Path, passphrase: Callable[[], str], now: UnixTime) -> None:
    """Issue the origin its own next certificate once half of the old one's year is over.

    One of version 0.1 is replaced at once: it lacks the identifiers that Python 3.13 asks for.

    Raises:
        Unavailable, Malformed, Untrusted: a key file cannot be read or written.
    """
    path = folder / "identity.key"
    key = read_key_file(path, passphrase)
    certificate = key.certificate.encode()
    if has_identifiers(certificate) and not is_past_half(certificate, now):
        return
    authority = read_key_file(folder / "ca.key", passphrase)
    fresh = issue(
        make_request(key.tls_seed),
        ca_pem=key.ca.encode(),
        ca_seed=authority.signing_seed,
        role=Role.MIRROR,
        site="headquarters",
        now=now,
        span_days=OPERATOR_DAYS,
    )
    replace_certificate(path, fresh.decode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unavailable(str(path), why=error.strerror or "cannot be read") from error
