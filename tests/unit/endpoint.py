"""One endpoint on a real host, in folders of a test; a test puts its pieces into its store."""

import asyncio
import dataclasses
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from agent.checks.isolation import Checks
from agent.decisions.lifecycle import Phase
from agent.handlers.files import FilesHandler
from agent.install.installer import Installer
from agent.install.journal import Journal
from firedoor.halt.envelope import seal
from firedoor.halt.merkle import climb
from firedoor.halt.order import HaltPayload
from firedoor.identity import FleetId, PeerId, Role
from firedoor.node.settings import NodeSettings
from firedoor.pieces.manifest import Manifest, encode_manifest
from firedoor.runtime.clocks import Clock
from firedoor.runtime.host.host import Host, HostParts
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import AgentSettings, ProductSettings
from firedoor.runtime.storage.order_log import OrderLog
from firedoor.runtime.storage.piece_store import PieceStore
from firedoor.wire.messages import Message
from tests.unit.origin_bench import Bench, release

# Far above what a story takes, far below what would hide a hang.
DEADLINE_S = 20.0

PRODUCT = "app"


class Endpoint:
    """An endpoint of a bench's fleet. Each `run` is one life of its process."""

    def __init__(
        self, bench: Bench, folder: Path, *, is_leased: bool = True, **settings: Any
    ) -> None:
        self._bench = bench
        self._is_leased = is_leased
        self._folder = folder
        self._settings = ProductSettings(str(folder / "root"), **{"settle_s": 0.0} | settings)
        self._published: list[tuple[bytes, Manifest]] = []
        self.checks = Checks(AgentSettings("", "", "branch", checks_run_as_agent=True))
        self.host: Host
        self.installer: Installer

    def publish(self, version: str, *checks: str, floor: int = 0, handler: str = "files") -> None:
        """Publish a release of one file, `version` in it; its pieces are here at once."""
        raw = f"content of {version}".encode()
        made = release(self._bench.store, version, raw)
        counter = int(version.partition(".")[0])
        manifest = dataclasses.replace(
            made, counter=counter, checks=checks, floor=floor, handler=handler
        )
        self._bench.publish(manifest)
        self._published.append((raw, manifest))

    def cloned(self, folder: Path) -> "Endpoint":
        """The same endpoint on another disk."""
        shutil.copytree(self._folder, folder, symlinks=True)
        other = Endpoint(self._bench, folder)
        other._published = self._published
        return other

    def run(
        self,
        story: Callable[["Endpoint"], Coroutine[Any, Any, None]],
        *,
        cut_power: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Boot, follow the plan while `story` goes on, and stop. `cut_power` sees each step."""
        asyncio.run(self._live(story, cut_power))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`; the test's deadline ends what never does."""
        while not holds():  # the journal has no event to wait for
            await asyncio.sleep(0.005)

    async def until_runs(self, version: str) -> None:
        """Wait until this version runs and nothing is under way."""
        await self.until(lambda: self.state == (version, Phase.IDLE.value))

    @property
    def state(self) -> tuple[str, str]:
        """The active version, empty for none, and the phase."""
        health = self.installer.health()
        return health.version, health.phase

    async def halt(self, scope: str, level: int) -> None:
        """An operator's order arrives, and is recorded."""
        key = read_key_file(self._bench.fleet / "keys" / "halt-1.key", str)
        payload = HaltPayload(1, bytes(16), scope, level, 0, "it is bad")
        seeds = {key.keyid: key.signing_seed}
        order, record = seal("halt", payload, fleet=FleetId(key.fleet), keys=seeds)
        self.host.apply(self.host.node.submit(record, None, self.host.clock.now()))
        await self.until(lambda: self.host.node.is_recorded(order))

    def grant_lease(self) -> None:
        """The origin answers a nonce of this endpoint."""
        lease, now, nonce = self.host.node.lease, self.host.clock.now(), bytes(32)
        lease.ask(nonce, now)
        assert lease.grant(climb(nonce, ()), (), now)
        self.installer.notify()

    # --- Program -------------------------------------------------------------------------------

    def on_message(self, message: Message, sender: PeerId) -> None:
        pass

    def on_synced(self, peer: PeerId) -> None:
        pass

    def on_gone(self, peer: PeerId) -> None:
        pass

    def on_changed(self) -> None:
        self.installer.notify()

    def on_cut(self) -> None:
        self.installer.notify()

    async def on_complete(self, manifest: str) -> None:
        del manifest
        self.installer.notify()

    def on_no_room(self, manifest: str) -> None:
        pass

    # --- inside --------------------------------------------------------------------------------

    async def _live(
        self, story: Callable[["Endpoint"], Coroutine[Any, Any, None]], cut: Callable[[str], None]
    ) -> None:
        self._folder.mkdir(exist_ok=True)
        self.host = self._make_host()
        self._booted = asyncio.Event()
        journal = Journal(self._folder / "journal.db")
        handler = FilesHandler(Path(self._settings.root))
        self.installer = Installer(
            self.host,
            PRODUCT,
            self._settings,
            journal=Cut(journal, cut),  # type: ignore[arg-type]  # the same, until the power goes
            handler=Cut(handler, cut),
            checks=self.checks,
            on_change=lambda: None,
        )
        if self._is_leased:
            self.grant_lease()
        try:
            async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
                life = group.create_task(self.host.run(self, self._boot()))
                await self._booted.wait()
                await story(self)
                life.cancel()
        finally:
            journal.close()
            self.host.log.close()

    async def _boot(self) -> None:
        await self.host.catalogue.refresh(self._bench.origin.get)
        self.host.believe()
        for raw, manifest in self._published:
            release(self.host.store, manifest.version, raw)
            entry = next(e for e in self.host.catalogue.releases if e.version == manifest.version)
            self.host.catalogue.keep_manifest(entry.manifest, encode_manifest(manifest))
        self._booted.set()
        await self.installer.run()

    def _make_host(self) -> Host:
        clock = Clock()
        root = (self._bench.fleet / "root.json").read_bytes()
        key = read_key_file(self._bench.fleet / "origin" / "identity.key", str)
        state = self._folder / "state"
        parts = HostParts(
            clock=clock,
            client=PeerClient(credentials_of(key), clock, Budget(0)),
            catalogue=Catalogue(state / "metadata", root=root, fleet=fleet_of(root), clock=clock),
            store=PieceStore(state / "pieces"),
            order_log=OrderLog(state / "orders.log"),
        )
        host = Host(NodeSettings(PeerId("e" * 32), Role.AGENT, "branch", 7443), parts)
        # Nobody is there to sync with first; all else is as at any endpoint.
        host.node._catch_up.state.is_done = True
        return host


class Cut:
    """A thing whose every step `cut` sees before and after it is done."""

    def __init__(self, thing: object, cut: Callable[[str], None]) -> None:
        self._thing = thing
        self._cut = cut

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._thing, name)
        if not callable(method):
            return method

        def step(*args: Any, **named: Any) -> Any:
            self._cut(f"before {name}")
            done = method(*args, **named)
            self._cut(f"after {name}")
            return done

        return step
