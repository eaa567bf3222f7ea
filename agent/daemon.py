"""The endpoint: follows its products, passes pieces on, obeys and spreads orders."""

import asyncio
from typing import Any

from agent.installer import Installer
from firedoor.dice import Dice
from firedoor.errors import FiredoorError
from firedoor.identity import PeerId, Role
from firedoor.limits import NEIGHBOURS_DIALLED_MAX
from firedoor.runtime.dialling import Neighbours, keep_dialling
from firedoor.runtime.host import Host
from firedoor.runtime.logs import log
from firedoor.runtime.settings import AgentSettings, split_address
from firedoor.wire.messages import Announce, Health, Message, Recorded, Report, Roster

# While no mirror answers, the keys and the list of releases are asked for this often.
FIRST_CONTACT_S = 0.5

# An unchanged endpoint still says so, so that status can tell silence from sameness.
HEALTH_EVERY_S = 30.0


class AgentDaemon:
    """One endpoint's workers over its host."""

    def __init__(self, host: Host, settings: AgentSettings, dice: Dice) -> None:
        self.host = host
        self._settings = settings
        self._dice = dice
        self._announced: tuple[PeerId, int] | None = None
        self._refresh_wanted = asyncio.Event()
        self._health_wanted = asyncio.Event()
        self.installers: list[Installer] = []
        self.neighbours = Neighbours(host, dice, dialled_max=NEIGHBOURS_DIALLED_MAX)

    async def run(self) -> None:
        """Serve until cancelled."""
        mirrors = [split_address(text) for text in self._settings.mirrors]
        peers = [split_address(text) for text in self._settings.peers]
        dials = [keep_dialling(self.host, each, Role.MIRROR, self._dice) for each in mirrors]
        dials += [keep_dialling(self.host, each, Role.AGENT, self._dice) for each in peers]
        products = [installer.run() for installer in self.installers]
        workers = (self._refresh(), self._report(), self._first_contact(), self.neighbours.run())
        await self.host.run(self, *workers, *dials, *products)

    # --- Program -------------------------------------------------------------------------------

    def on_message(self, message: Message, sender: PeerId) -> None:
        """A mirror has news, or an order is durable here."""
        match message:
            case Announce(timestamp, targets) if sender in self._mirrors():
                if timestamp != self.host.catalogue.timestamp:
                    self._announced = (sender, targets)
                    self._refresh_wanted.set()
            case Roster(entries) if sender in self._mirrors():
                for entry in entries:
                    address = (entry.host, entry.port)
                    self.neighbours.found(PeerId(entry.id), address, Role.AGENT)
            case Recorded():
                self._health_wanted.set()
            case _:
                pass

    def on_synced(self, peer: PeerId) -> None:
        """The gates may have opened."""
        if peer in self._mirrors():
            self._health_wanted.set()
        self._stir()

    def on_cut(self) -> None:
        """The brake has changed."""
        self._stir()

    async def on_complete(self, manifest: str) -> None:
        """A release is here whole."""
        log("release-complete", manifest=manifest[:12])
        self._stir()

    def on_no_room(self, manifest: str) -> None:
        """The disk is full; the installer says so and tries again later."""
        del manifest
        self._stir()

    # --- inside --------------------------------------------------------------------------------

    def changed(self) -> None:
        """Something that a health report says is different now."""
        self._health_wanted.set()

    def _stir(self) -> None:
        for installer in self.installers:
            installer.stir()

    def _mirrors(self) -> list[PeerId]:
        lines = self.host.lines.values()
        return [line.peer.id for line in lines if line.peer.role is Role.MIRROR]

    async def _refresh(self) -> None:
        while True:
            await self._refresh_wanted.wait()
            self._refresh_wanted.clear()
            source, targets = self._announced or (PeerId(""), 0)
            try:
                await self.host.catalogue.refresh(self.host.getter(source), targets)
            except FiredoorError as error:
                log("refresh-failed", level="warning", why=str(error))
            self.host.believe()
            self._stir()

    async def _first_contact(self) -> None:
        """Metadata before the first conversation: without keys no order can be checked."""
        while not self.host.trusted.is_set():
            addresses = [split_address(text) for text in self._settings.mirrors]
            addresses += self.neighbours.addresses(Role.MIRROR)
            for host, port in addresses:
                await self._contact(host, port)
                if self.host.trusted.is_set():
                    return
            await asyncio.sleep(FIRST_CONTACT_S * (0.5 + self._dice.fraction()))

    async def _contact(self, host: str, port: int) -> None:
        async def get(path: str, limit: int) -> bytes:
            return await self.host.client.get(host, port, path, role=Role.MIRROR, limit=limit)

        try:
            await self.host.catalogue.refresh(get)
        except FiredoorError as error:
            log("first-contact-failed", address=f"{host}:{port}", why=str(error))
        self.host.believe()
        self._stir()

    async def _report(self) -> None:
        while True:
            report = self.report()
            for mirror in self._mirrors():
                self.host.send(mirror, Health((report,)))
            try:
                async with asyncio.timeout(HEALTH_EVERY_S):
                    await self._health_wanted.wait()
            except TimeoutError:
                continue
            self._health_wanted.clear()

    def report(self) -> Report:
        """What this endpoint claims of itself."""
        products = tuple(installer.health() for installer in self.installers)
        orders = tuple(sorted(order.hex() for order in self.host.node.durable))[-256:]
        settings = self.host.settings
        return Report(settings.me, settings.role.value, settings.site, products[:256], orders)

    def more_status(self) -> dict[str, Any]:
        """What an agent's status has beside the common part."""
        return {"products": [installer.table() for installer in self.installers]}
