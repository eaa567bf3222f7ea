"""What signed metadata offers this endpoint of one product; agent/decisions/plan.py chooses."""

from agent.decisions.plan import Offer, Running, choose
from agent.handlers.contract import Handler
from agent.install.journal import Journal
from firedoor.errors import Refused
from firedoor.halt.brake import Gate
from firedoor.pieces.manifest import Manifest
from firedoor.runtime.host.host import Host
from firedoor.runtime.settings import ProductSettings


class Offers:
    """The offers of one product, as its settings want them."""

    def __init__(
        self,
        host: Host,
        product: str,
        settings: ProductSettings,
        *,
        journal: Journal,
        handler: Handler,
    ) -> None:
        self._host = host
        self._product = product
        self._wanted = settings.version
        self._handler_name = settings.handler
        self._journal = journal
        self._handler = handler
        self._counters: dict[str, int] = {}

    def best(self, also_failed: frozenset[bytes] = frozenset()) -> Offer | None:
        """The release to move to; None when what runs is right or nothing better may run.

        `also_failed`: contents that failed here and that a full journal may not have.
        """
        node = self._host.node
        offers = [
            Offer(
                entry.product,
                entry.version,
                entry.counter,
                entry.manifest,
                node.releases[entry.manifest].content,
            )
            for entry in self._host.catalogue.releases
            if entry.product == self._product and entry.manifest in node.releases
            # Another handler would make something else of the same files.
            if entry.handler == self._handler_name
        ]
        return choose(
            self._wanted,
            offers,
            running=self._running(),
            failed=self._journal.failed(self._product) | also_failed,
            permits=self._permits,
        )

    def held(self, manifest: str) -> Manifest | None:
        """The manifest of what is on this disk, if there is one that this version can read."""
        try:
            return self._host.catalogue.held_manifest(manifest)
        except Refused:
            return None

    def _permits(self, offer: Offer) -> bool:
        # The next step that it needs: a halt of level 2 stops what is not here yet, and lets the
        # plan go on to the release before it.
        is_whole = self._host.node.is_whole(offer.manifest)
        gate = Gate.INSTALL if is_whole else Gate.FETCH
        return self._host.node.permits(gate, offer.manifest)

    def _running(self) -> Running | None:
        active = self._handler.active()
        if active is None:
            return None
        manifest = active[1]
        entry = self._host.catalogue.entry(manifest)
        if entry is not None:
            return Running(manifest, entry.counter)
        if manifest not in self._counters:
            held = self.held(manifest)
            self._counters = {manifest: held.counter if held is not None else 0}
        return Running(manifest, self._counters[manifest])
