"""A mirror that no network joins to its fleet: what a stick takes out, and what it brings home.

* It has no upstream. A person carries a folder between it and any mirror that has one, or the
  origin; `firedoor carry` gives and takes at both ends.
* All that comes is believed as from any mirror: metadata by its signatures, a lease by the path
  to what the origin signed, a piece by its digest, in the name of a release that may move.
* Requests for certificates wait here, in memory; what comes for them is handed out when it is asked
  for again.

Leases are of halt/carried.py; the routes are in api/stick_routes.py.
"""

import asyncio

from firedoor.errors import FiredoorError, Unavailable, Untrusted
from firedoor.halt.brake import Gate
from firedoor.identity import Peer, PeerId
from firedoor.pieces.inventory import piece_map
from firedoor.runtime.host.host import Host
from firedoor.runtime.keys.authority import id_of_request
from firedoor.runtime.keys.tls import peer_of_certificate
from firedoor.runtime.logs import log
from firedoor.runtime.program.renewal import Renewal
from firedoor.wire.stick import (
    CARRIED_MAX,
    CARRIED_RECEIPTS_MAX,
    Answer,
    ImportResult,
    Inbound,
    Outbound,
)
from mirror.telemetry.receipts import ReceiptCollector


class OfflineEnroller:
    """Answers renewals in place of the origin: from what the last stick brought. `ca`: in PEM."""

    def __init__(self, ca: bytes) -> None:
        self.ca = ca
        self.requests: dict[PeerId, bytes] = {}
        self._certificates: dict[PeerId, bytes] = {}
        self._handed: set[PeerId] = set()

    def put(self, peer: PeerId, certificate: bytes) -> bool:
        """Keep a certificate for its machine; whether there was room."""
        has_room = len(self._certificates) < CARRIED_MAX or peer in self._certificates
        if has_room:
            self._certificates[peer] = certificate
            self._handed.discard(peer)
            self.requests.pop(peer, None)
        return has_room

    async def enrol(self, body: bytes) -> bytes:
        """No certificate for a new machine.

        Raises:
            Unavailable: always; a token is used up at the origin.
        """
        del body
        why = "no network leads to the origin from here; enrol where one does, then bring it here"
        raise Unavailable("enrolment", why=why)

    async def renew(self, body: bytes, asker: Peer, shown: bytes = b"") -> bytes:
        """The certificate that a stick has brought for this request's machine.

        Raises:
            Malformed: no such request.
            Unavailable: none has come yet; the next stick takes the request.
        """
        del asker, shown
        peer = id_of_request(body)
        brought = self._certificates.get(peer)
        if brought is not None and peer not in self._handed:
            self._handed.add(peer)
            return brought
        # Who asks again after it was handed one has not got it, or is due once more.
        if len(self.requests) < CARRIED_MAX or peer in self.requests:
            self.requests[peer] = body
        if brought is None:
            raise Unavailable("renewal", why="it waits for the next stick")
        return brought


class Carrying:
    """The stick's place at one mirror. Errors of its methods are said to whoever carries it."""

    def __init__(
        self,
        host: Host,
        offline_enroller: OfflineEnroller,
        renewal: Renewal,
        collector: ReceiptCollector,
    ) -> None:
        self._host = host
        self._collector = collector
        self._offline_enroller = offline_enroller
        self._renewal = renewal
        self._held: tuple[str, dict[bytes, None]] = ("", {})

    async def outbound(self) -> Outbound:
        """What the stick takes along."""
        requests = dict(self._offline_enroller.requests)
        own = await asyncio.to_thread(self._renewal.due_request)
        if own is not None:
            requests[self._host.settings.me] = own
        asked = self._host.node.carried.questions()
        receipts = [record for message in self._collector.all() for record in message.records]
        return Outbound(
            self._host.settings.me,
            asked,
            tuple(requests.values())[:CARRIED_MAX],
            tuple(receipts[:CARRIED_RECEIPTS_MAX]),
        )

    async def inbound(self, brought: Inbound) -> ImportResult:
        """The stick has come home.

        Raises:
            Refused: the answer is not the origin's, or to other questions.
            Unavailable: no metadata has come here yet.
        """
        taken = 0
        for certificate in brought.certificates:
            taken += await self._take_certificate(certificate)
        told = self._take_answer(brought.answer) if brought.answer is not None else 0
        lease, now = self._host.node.lease, self._host.clock.now()
        return ImportResult(lease.is_live(lease.terms.start, now), lease.why[:400], told, taken)

    def _take_answer(self, answer: Answer) -> int:
        there = {session.peer.id for session in self._host.node.sessions}
        self._host.apply(self._host.node.bring(answer, self._host.clock.now()))
        return sum(one.peer in there for one in answer.questions)

    async def _take_certificate(self, certificate: bytes) -> bool:
        try:
            peer = peer_of_certificate(certificate, self._host.clock.unix()).id
            if peer == self._host.settings.me:
                await asyncio.to_thread(self._renewal.take, certificate)
                return True
        except FiredoorError as error:
            log("carried-certificate-refused", level="warning", why=str(error))
            return False
        # Whose it is, and that the fleet's authority made it, its machine checks itself.
        return self._offline_enroller.put(peer, certificate)

    # --- releases ------------------------------------------------------------------------------

    async def take_manifest(self, manifest: str, data: bytes) -> None:
        """Keep the manifest of a release that signed metadata lists.

        Raises:
            Untrusted: it lists none of this digest, or the bytes have another.
            Malformed, TooLarge: it is no manifest.
        """
        self._listed(manifest)
        await asyncio.to_thread(self._host.catalogue.keep_manifest, manifest, data)

    async def missing(self, manifest: str) -> list[bytes]:
        """The digests of the pieces of a release that are not here.

        Raises:
            Untrusted: signed metadata lists no such release.
            Halted, Unavailable: it may not move here now, or its manifest is not here.
        """
        self._listed(manifest)
        self.require(manifest)
        digests = await self._pieces(manifest)
        return await asyncio.to_thread(lambda: [d for d in digests if not self._host.store.has(d)])

    async def take_piece(self, manifest: str, digest: bytes, stored: bytes) -> None:
        """Keep one piece, in the name of a release.

        Raises:
            Untrusted: it is no piece of the release, or has another digest.
            Halted, Unavailable: the release may not move here now, and why.
        """
        if digest not in await self._pieces(manifest):
            raise Untrusted("piece", wanted="one of the release", got=digest.hex()[:12])
        # Between this look and the disk nothing waits for the network.
        self.require(manifest)
        await asyncio.to_thread(self._host.store.put, digest, stored)

    def look_again(self, manifest: str) -> None:
        """Pieces of this release came past the swarm: it counts anew what is here.

        Raises:
            Untrusted: signed metadata lists no such release.
        """
        self._listed(manifest)
        self._host.apply(self._host.node.forget_pieces(manifest, self._host.clock.now()))

    def _listed(self, manifest: str) -> None:
        if self._host.catalogue.entry(manifest) is None:
            raise Untrusted("release", wanted="one in signed metadata", got=manifest[:12])

    def require(self, manifest: str) -> None:
        """Nothing, if the release may move here now.

        Raises:
            Halted, Unavailable: it may not, and why.
        """
        if self._host.may_start(Gate.FETCH, manifest):
            return
        if self._host.node.is_reconciled:
            self._host.node.require(Gate.FETCH, manifest)
        raise self._host.node.no_lease()

    async def _pieces(self, manifest: str) -> dict[bytes, None]:
        """The digests of a release, in order; the last's are kept, for its pieces come singly."""
        if self._held[0] != manifest:
            held = await asyncio.to_thread(self._host.catalogue.held_manifest, manifest)
            if held is None:
                raise Unavailable(f"manifest {manifest[:12]}", why="it is not here yet")
            self._held = (manifest, dict.fromkeys(piece_map(manifest, held).digests))
        return self._held[1]
