"""The endpoint: follows its products, passes pieces on, obeys and spreads orders."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.install.guard_results import GuardResults
from agent.install.installer import Installer
from agent.install.journal import Journal
from agent.install.product_row import idle_row
from agent.receipts import ReceiptWriter
from agent.reports import bounded
from firedoor import __version__
from firedoor.dice import Dice
from firedoor.errors import FiredoorError
from firedoor.identity import FleetId, PeerId, Role
from firedoor.limits import MIRROR_PATIENCE, NEIGHBOURS_DIALLED_MAX
from firedoor.node.rosters import span_of_recording
from firedoor.runtime.host.dialling import Neighbours, keep_dialling
from firedoor.runtime.host.host import Host
from firedoor.runtime.host.metadata_source import FirstContact, Place, answering
from firedoor.runtime.logs import log
from firedoor.runtime.network.discovery import Discovery
from firedoor.runtime.network.hints import STRANGER_S
from firedoor.runtime.network.peer_client import CONNECT_S
from firedoor.runtime.program.renewal import Renewal
from firedoor.runtime.program.startup import ProgramIdentity
from firedoor.runtime.settings import AgentSettings, split_address
from firedoor.trust.report_signing import signed_report
from firedoor.units import between
from firedoor.wire.messages import Announce, Health, Message, Recorded, Report, Roster, RosterChange

# While no mirror answers, the keys and the list of releases are asked for this often.
FIRST_CONTACT_S = 0.5

# Halts in force of which an endpoint says that it has recorded them.
ORDERS_SAID_MAX = 64

# An unchanged endpoint still says so, so that status can tell silence from sameness.
HEALTH_EVERY_S = 30.0

# Word of one event from a whole site is spread over this long.
HEALTH_SPREAD_S = 1.0

# The copies beside the products follow an order within this.
TOMBSTONE_SPREAD_S = 2.0

# After news that nobody could bring whole: a mirror that restarts takes about as long.
REFRESH_AGAIN_S = 2.0
REFRESH_AGAIN_MAX_S = 60.0

# Two releases of one moment are two refreshes, this far apart.
REFRESH_EVERY_S = 0.5

# A journal that cannot be opened (a full disk, a damaged file) is tried again this often.
JOURNAL_AGAIN_S = 10.0

# How often an endpoint looks whether a mirror still answers.
LOOK_AROUND_S = 1.0


class AgentDaemon:
    """One endpoint's workers over its host.

    `make_installers` gets the open journal, and what to call when a health report changes.
    """

    def __init__(
        self,
        host: Host,
        settings: AgentSettings,
        person: ProgramIdentity,
        renewal: Renewal,
        make_installers: Callable[[Journal, Callable[[], None]], list[Installer]],
    ) -> None:
        self.host = host
        self._seed = seed = person.key.tls_seed
        self._fleet = FleetId(person.key.fleet)
        self._renewal = renewal
        self._make_installers = make_installers
        self._said_at = 0
        self._introduced_to: set[PeerId] = set()
        self._settings = settings
        self._dice = dice = Dice(host.clock.seed())
        self._announced: dict[PeerId, Announce] = {}
        self._refresh_wanted = asyncio.Event()
        self._health_wanted = asyncio.Event()
        self._tombstones_wanted = asyncio.Event()
        self.installers: list[Installer] = []
        self._hindrance = ""
        self.receipts = ReceiptWriter(
            host,
            seed,
            pending=self._has_to_obey,
            active=self._active,
            staged=lambda: [one for each in self.installers for one in each.staged()],
            on_order=settings.hooks.on_order,
        )
        kept = Path(settings.state).expanduser() / "neighbours.json"
        self.neighbours = Neighbours(
            host, host.connections, dice, dialled_max=NEIGHBOURS_DIALLED_MAX, kept=kept
        )

    async def run(self, discovery: Discovery) -> None:
        """Serve until cancelled; `discovery` finds endpoints while no mirror answers."""
        lines, clock = self.host.connections, self.host.clock
        mirrors = [split_address(text) for text in self._settings.mirrors]
        peers = [split_address(text) for text in self._settings.peers]
        dials = [keep_dialling(lines, clock, each, Role.MIRROR, self._dice) for each in mirrors]
        dials += [keep_dialling(lines, clock, each, Role.AGENT, self._dice) for each in peers]
        workers = (
            self._install(),
            self._refresh(),
            self._report(),
            self._first_contact(),
            self._look_around(discovery),
            self._keep_tombstones(),
            self._renewal.keep(lines.mirrors),
            self.neighbours.run(),
        )
        await self.host.run(self, *workers, *dials)

    # --- Program -------------------------------------------------------------------------------

    def on_message(self, message: Message, sender: PeerId) -> None:
        """A mirror has news, or an order is durable here."""
        match message:
            case Announce():
                self._announced[sender] = message
                # Only news: two endpoints would else answer each other's word with a word for ever.
                if self._news():
                    self._refresh_wanted.set()
            case Roster(entries) | RosterChange(come=entries) if sender in self._mirrors():
                for entry in entries:
                    address = (entry.host, entry.port)
                    self.neighbours.told(PeerId(entry.id), address)
            case Recorded(ids) if sender == self.host.settings.me:
                self._health_wanted.set()
                for order in ids:
                    self.receipts.recorded(order)
            case _:
                pass

    def on_synced(self, peer: PeerId) -> None:
        """The gates may have opened."""
        if peer in self._mirrors():
            self._health_wanted.set()
            self.receipts.catch_up()
            self.receipts.repeat(peer)
        self._announce(peer)
        self._notify_installers()

    def on_gone(self, peer: PeerId) -> None:
        """With the last mirror gone, news that endpoints told of is worth asking them for."""
        self._announced.pop(peer, None)
        self._introduced_to.discard(peer)
        if self._news():
            self._refresh_wanted.set()

    def on_cut(self) -> None:
        """An order has come. The gates are closed; what rests has nothing to stop in a hurry."""
        self.receipts.closed()
        self._tombstones_wanted.set()
        span = span_of_recording(self.host.node.sessions, self._dice)
        for installer in self.installers:
            if installer.is_at_rest:
                asyncio.get_running_loop().call_later(span, installer.notify)
            else:
                installer.notify()

    def on_changed(self) -> None:
        """What may move here has changed, and nothing was halted by it."""
        self.receipts.closed()
        self._tombstones_wanted.set()
        self._notify_installers()

    async def on_complete(self, manifest: str) -> None:
        """A release is here whole."""
        log("release-complete", manifest=manifest[:12])
        self._notify_installers()

    def on_no_room(self, manifest: str) -> None:
        """The disk is full; the installer says so and tries again later."""
        del manifest
        self._notify_installers()

    def found(self, peer: PeerId, role: Role, address: tuple[str, int]) -> None:
        """A peer is on this LAN, says mDNS."""
        self.neighbours.found(peer, address, role)
        if role is Role.MIRROR:
            self.host.node.expect_mirror(self.host.clock.now())

    def heard_of_orders(self, peer: PeerId, orders: str) -> None:
        """A mirror's mDNS record says which orders it holds: if others, do not wait to dial it."""
        mine = self.host.node.orders.digest().hex()[: len(orders)]
        if orders != mine and peer not in self.host.connections.open:
            self.neighbours.hurry(peer)

    # --- inside --------------------------------------------------------------------------------

    def changed(self) -> None:
        """Something that a health report says is different now."""
        self._health_wanted.set()

    async def _install(self) -> None:
        """Follow the products for ever; without a sound journal obey and relay orders only."""
        state = Path(self._settings.state).expanduser()
        results = GuardResults(state / "guard.json")
        while True:
            try:
                journal = Journal(state / "journal.db")
                results.apply_to(journal)
                self.installers = self._make_installers(journal, self.changed)
                break
            except (FiredoorError, OSError) as error:
                self._hindrance = f"nothing is installed: {error}"
                log("journal-unusable", level="error", why=str(error), do="free space, or mend it")
            await asyncio.sleep(JOURNAL_AGAIN_S)
        self._hindrance = ""
        self.changed()
        try:
            async with asyncio.TaskGroup() as group:
                for installer in self.installers:
                    group.create_task(installer.run())
                group.create_task(self._keep_applying_guard_results(results, journal))
        finally:
            journal.close()

    def _has_to_obey(self) -> bool:
        """Whether a halt asks for more than is done; so while a product is not followed."""
        is_short = len(self.installers) < len(self._settings.products)
        return is_short or any(each.has_to_obey() for each in self.installers)

    def _active(self) -> list[str]:
        return [row.manifest for each in self.installers if (row := each.health()).manifest]

    def _notify_installers(self) -> None:
        for installer in self.installers:
            installer.notify()

    def _mirrors(self) -> list[PeerId]:
        """Those that give to this endpoint; one of another site that has dialled in does not."""
        return [
            connection.peer.id
            for connection in self.host.connections.open.values()
            if connection.is_upstream
        ]

    def _news(self) -> list[PeerId]:
        """Who has newer metadata, the newest first; endpoints only while no mirror answers."""
        lines, mine = self.host.connections.open, self.host.catalogue.timestamp
        self._announced = {peer: each for peer, each in self._announced.items() if peer in lines}
        sources = self._mirrors()
        able = [
            peer
            for peer in self._announced
            if peer in sources or (not sources and lines[peer].peer.role is Role.AGENT)
        ]
        able = [peer for peer in able if self._announced[peer].timestamp > mine]
        # The highest claim first, but for those whose claims have come to nothing before.
        able = sorted(able, key=lambda peer: -self._announced[peer].timestamp)
        return self.host.sources.in_turn(able, None, self.host.clock.now())

    def _announce(self, peer: PeerId) -> None:
        """Tell an endpoint what there is: it may have missed the mirror's own word."""
        authority, connection = self.host.catalogue.authority, self.host.connections.open.get(peer)
        if authority is not None and connection is not None and connection.peer.role is Role.AGENT:
            timestamp = self.host.catalogue.timestamp
            self.host.send(peer, Announce(timestamp, authority.targets_version))

    async def _look_around(self, discovery: Discovery) -> None:
        """Browse for endpoints while no mirror answers: a roster is a mirror's."""
        now = self.host.clock.now
        seen_at = now()
        while True:
            if self._mirrors():
                seen_at = now()
            is_alone = between(seen_at, now()) >= MIRROR_PATIENCE
            await discovery.browse_widely(is_wanted=is_alone)
            await asyncio.sleep(LOOK_AROUND_S)

    async def _keep_tombstones(self) -> None:
        """Have the halts in force lie beside each product, too; the order log comes first."""
        while True:
            await self._tombstones_wanted.wait()
            # The order log has it already; a site's disks and cores are busy with that just now.
            await asyncio.sleep(TOMBSTONE_SPREAD_S * self._dice.fraction())
            self._tombstones_wanted.clear()
            for installer in [*self.installers]:
                await asyncio.to_thread(installer.keep_tombstones)

    async def _keep_applying_guard_results(self, results: GuardResults, journal: Journal) -> None:
        while True:
            await asyncio.sleep(LOOK_AROUND_S)
            results.apply_to(journal)

    async def _refresh(self) -> None:
        pause = REFRESH_AGAIN_S
        while True:
            await self._refresh_wanted.wait()
            self._refresh_wanted.clear()
            if not self._news():
                continue
            is_done = await self._refreshed()
            # What came is believed, though not all of it could be had.
            self.host.believe()
            self._notify_installers()
            pause = REFRESH_AGAIN_S if is_done else min(pause * 2, REFRESH_AGAIN_MAX_S)
            # Claims without end must not make this endpoint ask without end.
            await asyncio.sleep((REFRESH_EVERY_S if is_done else pause) * self._jitter())
            if not is_done or self._news():
                self._refresh_wanted.set()

    def _jitter(self) -> float:
        return 0.5 + self._dice.fraction()

    async def _refreshed(self) -> bool:
        """Ask those who have news until one brings it; False: none did."""
        for source in self._news():
            heard = self._announced[source]
            before = self.host.catalogue.timestamp
            try:
                await self.host.catalogue.refresh(self.host.getter(source), heard.targets)
            except (FiredoorError, OSError) as error:
                self.host.sources.failed(source, self.host.clock.now())
                log("refresh-failed", level="warning", peer=source, why=str(error))
            else:
                self._judge_claim(source, heard)
                # Where dates fail, keys may have come and no newer timestamp; asking again at once
                # would bring the same, and telling others would make them ask us.
                if self._announced.get(source) is heard:
                    # What came meanwhile may be of what was not there yet.
                    del self._announced[source]
                if self.host.catalogue.timestamp > before:
                    for peer in list(self.host.connections.open):
                        self._announce(peer)
                return True
        return False

    def _judge_claim(self, source: PeerId, heard: Announce) -> None:
        """A source that does not have what it claimed is asked after all others for a while."""
        authority = self.host.catalogue.authority
        is_fresh = authority is not None and authority.is_fresh
        if is_fresh and self.host.catalogue.timestamp < heard.timestamp:
            self.host.sources.failed(source, self.host.clock.now())

    async def _first_contact(self) -> None:
        """Metadata before the first conversation: without keys no order can be checked."""
        span_s = STRANGER_S
        while not self.host.trusted.is_set():
            # Who is slow, or does not exist, holds up nobody: they are asked side by side.
            async for place in answering(self.host.client, self._known_places(span_s)):
                await self._contact(place)
                if self.host.trusted.is_set():
                    return
            span_s = min(CONNECT_S, 2 * span_s)
            await asyncio.sleep(FIRST_CONTACT_S * self._jitter())

    def _known_places(self, span_s: float) -> list[Place]:
        """Those of the settings, and of the LAN, which have `span_s` to prove themselves."""
        named = {Role.MIRROR: self._settings.mirrors, Role.AGENT: self._settings.peers}
        places = []
        for role, texts in named.items():
            addresses = [split_address(text) for text in texts]
            places += [Place(*address, role) for address in addresses]
            found = [each for each in self.neighbours.addresses(role) if each not in addresses]
            places += [Place(*address, role, span_s) for address in found]
        return places

    async def _contact(self, place: Place) -> None:
        get = FirstContact(self.host.client, [place])
        try:
            await self.host.catalogue.refresh(get)
        except (FiredoorError, OSError) as error:
            log("first-contact-failed", address=f"{place.host}:{place.port}", why=str(error))
        self.host.believe()
        self._notify_installers()

    async def _report(self) -> None:
        while True:
            self._send_report()
            try:
                async with asyncio.timeout(HEALTH_EVERY_S):
                    await self._health_wanted.wait()
            except TimeoutError:
                continue
            # A site whose endpoints obey at once reports neither at once nor while they record.
            await asyncio.sleep(HEALTH_SPREAD_S * (0.5 + self._dice.fraction()))
            self._health_wanted.clear()

    def _send_report(self) -> None:
        """Tell every mirror; one that has just come hears once who vouches for this endpoint."""
        report = signed_report(bounded(self.report()), fleet=self._fleet, seed=self._seed)
        for mirror in self._mirrors():
            is_known = mirror in self._introduced_to
            certificate = b"" if is_known else self._renewal.certificate()
            if self.host.send(mirror, Health((replace(report, certificate=certificate),))):
                self._introduced_to.add(mirror)

    def report(self) -> Report:
        """What this endpoint claims of itself."""
        # Never the same twice, however the clock is set: the newer is told from the older by it.
        self._said_at = max(self._said_at + 1, self.host.clock.unix())
        products = tuple(installer.health() for installer in self.installers)
        halts = [halt.id for halt in self.host.node.orders.in_force()]
        is_recorded = self.host.node.is_recorded
        orders = tuple(order.hex() for order in halts if is_recorded(order))[:ORDERS_SAID_MAX]
        settings = self.host.settings
        lease_s = int(settings.lease.start)
        return Report(
            settings.me,
            settings.role.value,
            settings.site,
            products[:256],
            orders,
            lease_s=lease_s,
            version=__version__,
            said_at=self._said_at,
        )

    async def switch(self, products: frozenset[str]) -> dict[str, dict[str, str]]:
        """Switch what is armed, of these products or of all: what was `switched`, what `failed`."""
        told = {
            each.product: each
            for each in self.installers
            if each.arming.manifest and (not products or each.product in products)
        }
        switches = [each.switch() for each in told.values()]
        ends = await asyncio.gather(*switches, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, FiredoorError):
                raise end
        found = dict(zip(told, ends, strict=True))
        done = {name: end for name, end in found.items() if isinstance(end, str)}
        return {
            "switched": done,
            "failed": {name: str(end) for name, end in found.items() if name not in done},
        }

    def more_status(self) -> dict[str, Any]:
        """What an agent's status has beside the common part."""
        rows = [installer.table() for installer in self.installers]
        if self._hindrance:
            rows = [idle_row(name, self._hindrance) for name in self._settings.products]
        return {"products": rows}
