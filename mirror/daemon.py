"""The mirror: syncs everything from its upstream and relays it to its site; or is the origin.

A mirror without an upstream that is not the origin is fed by stick (airgap/carrying.py).
The origin differs in where its metadata comes from (its own folder), in what it signs online
(beacons when orders are durable, freshness), and in whom it answers (publishers, enrolments,
rotations).
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from firedoor.dice import Dice
from firedoor.errors import FiredoorError
from firedoor.halt.brake import Gate
from firedoor.identity import PeerId, Role
from firedoor.limits import ROSTER_MAX
from firedoor.runtime.host.dialling import Neighbours, keep_dialling
from firedoor.runtime.host.host import Host
from firedoor.runtime.host.metadata_source import FirstContact, Place
from firedoor.runtime.logs import log
from firedoor.runtime.metadata.catalogue import Get
from firedoor.runtime.metadata.offline_source import CarriedFiles
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.network.discovery import Discovery
from firedoor.runtime.program.renewal import Renewal
from firedoor.runtime.settings import split_address
from firedoor.wire.messages import Announce, Health, Message, Receipts, Recorded
from mirror.beacon_key import BeaconSigner
from mirror.origin.attestation import attestation_of
from mirror.origin.incoming import keep_sweeping
from mirror.origin.origin import Origin
from mirror.telemetry.receipts import ReceiptCollector
from mirror.telemetry.reporting import Reporting
from mirror.telemetry.reports import Endpoints

# The timestamp is looked at this often; origin/origin.py signs it anew long before it expires.
RESIGN_LOOK_S = 600.0

# After a failed sync from upstream, beyond what its next announcement will start anyway.
SYNC_AGAIN_S = 2.0
SYNC_AGAIN_MAX_S = 60.0

# Orders leave before the beacon that names them, and several of one moment get one beacon: each
# endpoint records that too, so those of a large site should be done with the order. Leases count
# every recorded order at once; only the word to the operator waits for this.
BEACON_PAUSE_S = 0.5
BEACON_PAUSE_S_PER_PEER = 0.002

# What is served is announced again so often, to whoever is connected.
ANNOUNCE_AGAIN_S = 600.0

# A full disk is emptied by a person or a rotation of logs, not within a second.
NO_ROOM_S = 5.0


class MirrorDaemon:
    """One mirror's workers over its host."""

    def __init__(
        self,
        host: Host,
        *,
        upstream: tuple[str, ...],
        origin: Origin | None,
        signer: Callable[[], BeaconSigner | None],
        renewal: Renewal | None,
        endpoints: Endpoints,
        collector: ReceiptCollector,
        dice: Dice,
        kept: Path | None = None,
    ) -> None:
        self._host = host
        self._upstream = upstream
        self._origin = origin
        self._signer_now = signer
        self._renewal = renewal
        self._dice = dice
        self._sync_wanted = asyncio.Event()
        self._beacon_wanted = asyncio.Event()
        self._syncing = asyncio.Lock()
        self._heard_targets = 0
        self._told = (0, 0)
        self._is_waiting_for_room = False
        self._named: tuple[bytes, ...] = ()
        self._endpoints = endpoints
        self._reporting = Reporting(host, endpoints)
        self.collector = collector
        self.neighbours = Neighbours(
            host, host.connections, dice, dialled_max=ROSTER_MAX, kept=kept
        )

    async def run(self, discovery: Discovery) -> None:
        """Serve until cancelled; `discovery` shows on the LAN which orders this mirror holds."""
        addresses = [split_address(text) for text in self._upstream]
        lines, clock = self._host.connections, self._host.clock
        dials = [
            keep_dialling(lines, clock, each, Role.MIRROR, self._dice, is_upstream=True)
            for each in addresses
        ]
        origin = []
        if self._origin is not None:
            origin = [self._resign(), keep_sweeping(self._origin.incoming, clock)]
        self._sync_wanted.set()
        renewal = []
        if self._renewal is not None:
            renewal = [self._renewal.keep(self._host.connections.mirrors)]
        workers = (
            self._sync(),
            self.neighbours.run(),
            self._endpoints.keep_saving(),
            self._reporting.keep_passing(),
            self.collector.keep_passing(self._host.is_idle, self._host.send),
            self._keep_naming(discovery),
            self._keep_announcing(),
        )
        await self._host.run(self, *workers, *dials, *origin, *renewal)

    # --- Program -------------------------------------------------------------------------------

    def on_message(self, message: Message, sender: PeerId) -> None:
        """An announcement from upstream, a report from below, or an order made durable here."""
        match message:
            case Announce(timestamp, targets):
                if sender in self._upstream_ids() and timestamp > self._host.catalogue.timestamp:
                    self._heard_targets = targets
                    self._sync_wanted.set()
            case Health(reports) if sender not in self._upstream_ids():
                peer = self._host.connections.open[sender].peer
                here, now = self._agents_here(), self._host.clock.unix()
                self._reporting.changed(self._endpoints.take(reports, peer, here, now))
            case Receipts() if sender not in self._upstream_ids():
                peer = self._host.connections.open[sender].peer
                self.collector.take(message, peer, self._in_force())
            case Recorded() if sender == self._host.settings.me:
                self._beacon_wanted.set()
            case _:
                pass

    def on_synced(self, peer: PeerId) -> None:
        """Tell a new peer what there is; an upstream also gets what is known of the site."""
        self._announce(peer)
        if peer in self._upstream_ids():
            self._sync_wanted.set()
            self._reporting.connected(peer)
            self.collector.connected(peer)

    def on_gone(self, peer: PeerId) -> None:
        """An endpoint's connection ended; those above should not wait to hear of its silence."""
        self._reporting.gone(peer)
        self.collector.gone(peer)
        self._reporting.changed(self._endpoints.lost(peer))

    def on_cut(self) -> None:
        """An order has come: the core has stopped what it covers, so there is no more to fetch.

        A ban takes what its machine has said of others with it.
        """
        self._endpoints.forget_senders(self._host.node.refuses)

    def on_changed(self) -> None:
        """A resume may let a release move again, and a committed order needs its beacon."""
        if self._origin is None or self._open():
            # At the origin most that changes is an order that is committed, while its site records.
            self._sync_wanted.set()
        self._beacon_wanted.set()
        if self._origin is None:
            # The origin's own are evidence.
            self.collector.keep_only(self._in_force())

    async def on_complete(self, manifest: str) -> None:
        """A release has arrived whole; its pieces were relayed as they came."""
        log("release-complete", manifest=manifest[:12])

    def on_no_room(self, manifest: str) -> None:
        """The disk is full: what is here is served on, the rest is tried again later."""
        del manifest
        if not self._is_waiting_for_room:
            self._is_waiting_for_room = True
            self._host.start(self._sync_later())

    def found(self, peer: PeerId, role: Role, address: tuple[str, int]) -> None:
        """A peer is on this LAN, says mDNS. Mirrors are reached by their settings alone."""
        if role is Role.AGENT:
            self.neighbours.found(peer, address, role)

    # --- inside --------------------------------------------------------------------------------

    async def repository_changed(self) -> None:
        """The origin has taken in a release or other keys: serve and announce them at once."""
        try:
            async with self._syncing:
                await self._sync_once()
        except (FiredoorError, OSError):
            # It is published all the same; the next sync announces it.
            self._sync_wanted.set()

    async def refresh_from(self, files: CarriedFiles) -> None:
        """Believe the metadata that a stick has brought, and announce it; raises as `refresh`."""
        async with self._syncing:
            # Past its dates metadata starts nothing, but its keys are those that halts come by.
            await self._host.catalogue.refresh(files, files.targets)
            self._host.believe()
            self._announce_news()

    def look_for_releases(self) -> None:
        """What a stick has brought may let a release move, or make it whole."""
        self._sync_wanted.set()

    async def certificate(self, order: bytes) -> bytes:
        """At the origin: the certificate of a halt as it stands; raises as `certificate_of`."""
        assert self._origin is not None
        heard = self._endpoints.heard()
        return await attestation_of(
            self._host, self._origin, self.collector.book, order=order, reports=heard
        )

    def _in_force(self) -> frozenset[bytes]:
        return frozenset(halt.id for halt in self._host.node.orders.in_force())

    def _upstream_ids(self) -> set[PeerId]:
        return {
            connection.peer.id
            for connection in self._host.connections.open.values()
            if connection.is_upstream
        }

    def _agents_here(self) -> set[PeerId]:
        lines = self._host.connections.open.values()
        return {connection.peer.id for connection in lines if connection.peer.role is Role.AGENT}

    def _announce(self, peer: PeerId | None = None) -> None:
        if self._host.catalogue.authority is None:
            return
        notice = Announce(self._host.catalogue.timestamp, self._targets())
        for each in [peer] if peer else list(self._host.connections.open):
            if each not in self._upstream_ids():
                self._host.send(each, notice)

    def _announce_news(self) -> None:
        """Tell all, unless they were told just that."""
        said = (self._host.catalogue.timestamp, self._targets())
        if said != self._told:
            self._told = said
            self._announce()

    def _targets(self) -> int:
        authority = self._host.catalogue.authority
        return authority.targets_version if authority is not None else 0

    async def _keep_announcing(self) -> None:
        """For whoever could not take it when it was said: a clock that is right again, for one."""
        while True:
            await asyncio.sleep(ANNOUNCE_AGAIN_S)
            self._announce()

    async def _sync(self) -> None:
        pause = SYNC_AGAIN_S
        while True:
            await self._sync_wanted.wait()
            self._sync_wanted.clear()
            try:
                async with self._syncing:
                    await self._sync_once()
                pause = SYNC_AGAIN_S
            except (FiredoorError, OSError) as error:
                log("sync-failed", level="warning", why=str(error))
                await asyncio.sleep(SYNC_AGAIN_S)
                # What was wanted meanwhile, by an announcement for one, waits no longer.
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause - SYNC_AGAIN_S):
                        await self._sync_wanted.wait()
                pause = min(2 * pause, SYNC_AGAIN_MAX_S)
                self._sync_wanted.set()

    async def _sync_later(self) -> None:
        await asyncio.sleep(NO_ROOM_S)
        self._is_waiting_for_room = False
        self._sync_wanted.set()

    async def _sync_once(self) -> None:
        get = self._source()
        failures: list[FiredoorError | OSError] = []
        if not self._host.settings.is_fed_by_stick:
            try:
                await self._host.catalogue.refresh(get, self._heard_targets)
            except FiredoorError as error:
                # One publisher's list that cannot be had keeps nothing of the others back.
                failures.append(error)
            self._host.believe()
        # A run was ended between a record and the beacon that names it, or keys were rotated.
        self._beacon_wanted.set()
        failures += [
            error for error in [await self._try(entry, get) for entry in self._open()] if error
        ]
        # Last: who hears of a release asks for its manifest at once.
        self._announce_news()
        if failures:
            raise failures[0]

    def _open(self) -> list[ReleaseEntry]:
        """The releases that may come and are not here or under way, the newest first."""
        may_start, catalogue = self._host.may_start, self._host.catalogue
        able = [
            entry
            for entry in catalogue.releases
            if not self._is_under_way(entry)
            and may_start(Gate.FETCH, entry.manifest)
            # A manifest that no stick has brought can be had from nobody.
            and (
                not self._host.settings.is_fed_by_stick or catalogue.manifest_bytes(entry.manifest)
            )
        ]
        return sorted(able, key=_newest_first)

    async def _try(self, entry: ReleaseEntry, get: Get) -> FiredoorError | OSError | None:
        """Acquire one release; what stops it must not stop the others."""
        try:
            await self._host.acquire(entry, get)
        except (FiredoorError, OSError) as error:
            return error
        return None

    def _is_under_way(self, entry: ReleaseEntry) -> bool:
        node, manifest = self._host.node, entry.manifest
        return node.is_whole(manifest) or node.is_fetching(manifest)

    def _source(self) -> Get:
        if self._origin is not None:
            return self._origin.get
        for upstream in sorted(self._upstream_ids()):
            return self._host.getter(upstream)
        known = [Place(*split_address(text), Role.MIRROR) for text in self._upstream]
        return FirstContact(self._host.client, known)

    def _sign_beacon(self) -> None:
        """Where beacons are made: name what is recorded here, unless the last beacon does so."""
        if self._origin is None and not self._host.node.is_second_origin:
            return
        node, ids = self._host.node, self._host.node.committed_ids()
        authority = self._host.catalogue.authority
        is_valid = authority is not None and node.orders.has_valid_beacon(authority)
        # One that takes a witness's signature is not whole before that has come.
        is_whole = is_valid and node.orders.has_said(self._signer.keyid, ids)
        if ids == self._named and (is_whole or not ids):
            return
        self._named = ids
        self._host.apply(node.take_beacon(self._signer.beacon(ids), None, self._host.clock.now()))

    async def _keep_naming(self, discovery: Discovery) -> None:
        """Name what was recorded, a moment after the orders themselves have left.

        Whoever makes beacons does so in one, every mirror in its mDNS record.
        """
        while True:
            await self._beacon_wanted.wait()
            peers = len(self._host.connections.open)
            await asyncio.sleep(max(BEACON_PAUSE_S, BEACON_PAUSE_S_PER_PEER * peers))
            self._beacon_wanted.clear()
            self._sign_beacon()
            await discovery.say_orders(self._host.node.orders.digest())

    @property
    def _signer(self) -> BeaconSigner:
        """By the beacon key of this mirror; asked for only where there is one."""
        signer = self._signer_now()
        assert signer is not None
        return signer

    async def _resign(self) -> None:
        assert self._origin is not None
        while True:
            try:
                if await asyncio.to_thread(self._origin.resign_timestamp):
                    self._sync_wanted.set()
            except (FiredoorError, OSError) as error:
                log("timestamp-not-signed", level="error", why=str(error), do="free disk space")
            await asyncio.sleep(RESIGN_LOOK_S)

    def more_status(self) -> dict[str, Any]:
        """What a mirror's status has beside the common part."""
        enrolled = self._origin.enrolled() if self._origin is not None else ()
        return {
            "endpoints": self._endpoints.table(self._host.connections.open, enrolled),
            "is_fed_by_stick": self._host.settings.is_fed_by_stick,
            "reports_refused": asdict(self._endpoints.refusals),
            "waiting_for_stick": len(self._host.node.carried.questions()),
        }


def _newest_first(entry: ReleaseEntry) -> int:
    return -entry.counter


def state_folder(text: str) -> Path:
    """The state folder of a settings file, made if missing."""
    folder = Path(text).expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
