"""`firedoor carry`: a folder between an air-gapped site and its fleet, by the same command at both.

At a mirror that a network joins to the fleet, or the origin: take metadata, orders and releases
along, and have answered what the sites asked. At an air-gapped site's mirror: give all that, and
take along what the site asks. Orders go both ways at either.
"""

import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from firedoor.cli.airgap.bundle import RESERVE_BYTES, Stick
from firedoor.cli.client.answers import say
from firedoor.cli.client.key_opening import open_key
from firedoor.cli.client.mirror_session import MirrorSession, talking
from firedoor.cli.client.order_delivery import give
from firedoor.cli.client.origin import ANSWER_BYTES_MAX, origin_of
from firedoor.cli.client.peer_status import PeerStatus
from firedoor.cli.client.requests import status_at, with_client
from firedoor.errors import Denied, FiredoorError, Malformed, Refused, Unavailable, Untrusted
from firedoor.halt.carried import root_of_questions
from firedoor.halt.envelope import Envelope, id_of
from firedoor.halt.order import read_order
from firedoor.halt.orderset import OrderSet
from firedoor.identity import FleetId, PeerId, Role
from firedoor.limits import (
    BATCH_BYTES,
    BATCH_PIECES_MAX,
    ENROLMENT_BYTES_MAX,
    METADATA_BYTES_MAX,
    ORDER_BYTES_MAX,
)
from firedoor.pieces.inventory import PieceMap, piece_map
from firedoor.pieces.manifest import Manifest
from firedoor.runtime.clocks import Clock
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.offline_source import CarriedFiles
from firedoor.runtime.metadata.release_entries import ReleaseEntry
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import split_address
from firedoor.runtime.terminal import plain
from firedoor.trust.keys import Authority
from firedoor.wire.codec import decode, digests_of, encode
from firedoor.wire.stick import (
    STICK_BYTES_MAX,
    Answer,
    ImportResult,
    Inbound,
    MetadataFiles,
    Outbound,
)

# Orders that a mirror refuses, of which a line is said.
_REFUSALS_SAID = 16

# A mirror verifies and syncs what it is given before it answers.
_GIVE_S = 120.0


@dataclass(frozen=True, slots=True)
class MirrorTarget:
    """The mirror that the stick is at. `status`: as it gave it when the visit began."""

    client: PeerClient
    fleet: FleetId
    address: tuple[str, int]
    peer: PeerId
    status: PeerStatus

    async def get(self, path: str, limit: int) -> bytes:
        """What it has at `path`; raises as `PeerClient.get`."""
        return await self.client.get(*self.address, path, expect=self.peer, limit=limit)

    def whole(self) -> set[str]:
        """The manifests of the releases that it has every piece of."""
        rows = self.status.releases
        return {row.manifest for row in rows if 0 < row.pieces_total == row.pieces_have}

    async def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        """Its answer to `body`; raises as `PeerClient.post`."""
        return await self.client.post(
            *self.address,
            path,
            body,
            expect=self.peer,
            limit=ENROLMENT_BYTES_MAX,
            headers=headers,
            span_s=_GIVE_S,
        )


def carry(folder: Path, key_file: tuple[Path, Path | None], to: list[str]) -> None:
    """Give the mirror at `to`, or the origin that the key names, what is for it; take its own.

    Raises:
        Malformed: the folder is no stick of this fleet, the peer no mirror, or `to` is several.
        Unavailable, Refused: the mirror does not answer, or something on the stick is damaged.
    """
    if len(to) > 1:
        raise Malformed("--to", wanted="one mirror a visit", got=str(len(to)))
    key = open_key(*key_file)
    stick = Stick(folder, FleetId(key.fleet))
    address = split_address(to[0]) if to else origin_of(key)

    async def visit(client: PeerClient) -> None:
        status = (await status_at(client, address)).status
        if status.role != Role.MIRROR.value:
            raise Malformed(f"{address[0]}:{address[1]}", wanted="a mirror", got=status.role)
        dock = MirrorTarget(client, FleetId(key.fleet), address, PeerId(status.id), status)
        if status.is_fed_by_stick:
            await _at_the_site(dock, stick)
        else:
            await _at_the_fleet(dock, stick)

    with_client(key, visit)


# --- both ends -----------------------------------------------------------------------------------


async def _give_orders(dock: MirrorTarget, stick: Stick, there: Sequence[bytes]) -> None:
    """Every order of the stick that is not there. One that this mirror refuses another may take."""
    held, keys = _by_id(dock, there), await _keys_at(dock)
    given = passed_over = refused = 0
    for order, record in _by_id(dock, stick.orders()).items():
        if order in held:
            continue
        if keys is not None and not _is_signed(record, keys):
            passed_over += 1
            continue
        try:
            await give(dock.client, dock.address, record, order)
            given += 1
        except Denied as error:
            refused += 1
            if refused <= _REFUSALS_SAID:
                say(f"order {order.hex()[:12]} is refused there: {error}")
    if refused > _REFUSALS_SAID:
        say(f"  and {refused - _REFUSALS_SAID} more are refused")
    if passed_over:
        say(
            f"orders: {passed_over} are signed by no keys that count here, and were not handed over"
        )
    say(f"orders: {given} were new here")


async def _keys_at(dock: MirrorTarget) -> Authority | None:
    """The fleet's keys, as this mirror's metadata has them; None: it has none yet."""
    with suppress(FiredoorError):
        root = await dock.get("/v1/metadata/1.root.json", METADATA_BYTES_MAX)
        async with _catalogue(dock, root) as catalogue:
            # Past their dates keys are good for orders.
            with suppress(FiredoorError):
                await catalogue.refresh(dock.get)
            return catalogue.authority
    return None


def _is_signed(record: bytes, keys: Authority) -> bool:
    try:
        read_order(record, keys)
    except Refused:
        return False
    return True


def _by_id(dock: MirrorTarget, records: Iterable[bytes]) -> dict[bytes, bytes]:
    """Those that are orders at all: junk among them must not keep the others back."""
    found = {}
    for record in records:
        with suppress(Refused):
            envelope = decode(Envelope, record, what="order", limit=ORDER_BYTES_MAX)
            found[id_of(dock.fleet, envelope)] = record
    return found


def _take_orders(stick: Stick, beacon: bytes, there: Sequence[bytes], keys: Authority) -> None:
    """What this mirror holds goes on the stick too: what the fleet's keys have signed, and no more.

    The same bounds hold as at a node, so that no mirror can fill a stick.
    """
    orders = OrderSet()
    with suppress(Refused):
        orders.name(beacon, keys)
    for record in (*stick.orders(), *there):
        with suppress(Refused):
            orders.admit(record, keys)
    stick.keep_orders(orders.records_but(()))
    say(f"orders: {len(orders.ids())} on the stick")


@asynccontextmanager
async def _catalogue(dock: MirrorTarget, root: bytes) -> AsyncIterator[Catalogue]:
    """An empty one beside the stick: it keeps links, which a stick's file system may not have."""
    with tempfile.TemporaryDirectory(prefix="firedoor-carry-") as folder:
        yield Catalogue(Path(folder), root=root, fleet=dock.fleet, clock=Clock())


# --- where a network leads to the origin ---------------------------------------------------------


async def _at_the_fleet(dock: MirrorTarget, stick: Stick) -> None:
    async with talking(dock.client, dock.address) as talk:
        # Before all that may fail: nothing else stops anything.
        await _give_orders(dock, stick, talk.orders)
        root = await dock.get("/v1/metadata/1.root.json", METADATA_BYTES_MAX)
        async with _catalogue(dock, root) as catalogue:
            await catalogue.refresh(dock.get)
            assert catalogue.authority is not None
            _take_orders(stick, talk.beacon, talk.orders, catalogue.authority)
            for outbound in stick.all_outbound():
                await _answer(dock, stick, outbound, talk=talk, catalogue=catalogue)
            # What came meanwhile may be in those leases.
            _take_orders(stick, talk.beacon, talk.orders, catalogue.authority)
            stick.keep_beacon(talk.beacon)
            stick.keep_metadata(MetadataFiles(catalogue.files()))
            newest = _newest(dock, catalogue)
            stick.keep_only({entry.manifest for entry in newest})
            for entry in newest:
                await _take(dock, stick, catalogue, entry)


async def _answer(
    dock: MirrorTarget,
    stick: Stick,
    outbound: Outbound,
    *,
    talk: MirrorSession,
    catalogue: Catalogue,
) -> None:
    """Have signed and renewed what one site asks for, and say what it has done.

    What cannot be had now leaves what was had before: it may not have been home yet.
    """
    talk.hand_up(outbound.receipts)
    earlier = Inbound(None, ())
    with suppress(Refused):  # A damaged one is of no use at the site either.
        earlier = stick.inbound(outbound.mirror) or earlier
    answer, leases = earlier.answer, "no new leases"
    if outbound.questions:
        root = root_of_questions(outbound.questions)
        try:
            given = await talk.lease(root, catalogue, dock.get)
            answer = Answer(given.record, given.path, outbound.questions)
            leases = f"leases for {len(outbound.questions)}"
        except FiredoorError as error:
            say(f"no leases for the site of mirror {outbound.mirror[:12]}: {error}")
    certificates = []
    for request in outbound.requests:
        try:
            certificates.append(await dock.post("/v1/renew", request))
        except FiredoorError as error:
            say(f"a certificate is not renewed: {error}")
    inbound = Inbound(answer, tuple(certificates) or earlier.certificates)
    stick.keep_inbound(outbound.mirror, inbound)
    done = f"{len(certificates)} certificate(s), {len(outbound.receipts)} receipt(s) handed up"
    say(f"site of mirror {outbound.mirror[:12]}: {leases}, {done}")


def _newest(dock: MirrorTarget, catalogue: Catalogue) -> list[ReleaseEntry]:
    """Of each product the newest release that may move."""
    able = {row.manifest for row in dock.status.releases if row.level == 0}
    newest: dict[str, ReleaseEntry] = {}
    for entry in sorted(catalogue.releases, key=lambda each: each.counter):
        if entry.manifest in able:
            newest[entry.product] = entry
    return [newest[product] for product in sorted(newest)]


async def _take(
    dock: MirrorTarget, stick: Stick, catalogue: Catalogue, entry: ReleaseEntry
) -> None:
    """Put one release on the stick, whole."""
    name = f"{entry.product} {entry.version}"
    try:
        manifest = await catalogue.manifest(entry, dock.get)
        stick.keep_manifest(entry.manifest, catalogue.manifest_bytes(entry.manifest) or b"")
        await _fetch(dock, stick, piece_map(entry.manifest, manifest))
    except FiredoorError as error:
        say(f"{name} is not taken along: {error}")
    else:
        say(f"{name} is on the stick")


async def _fetch(dock: MirrorTarget, stick: Stick, pieces: PieceMap) -> None:
    sizes = zip(pieces.digests, pieces.sizes, strict=True)
    missing = sum(size for digest, size in sizes if not stick.store.has(digest))
    stick.store.make_sure_of_room(missing + RESERVE_BYTES)
    for first, last in _runs(pieces, stick):
        start, end = pieces.range_of(first, last)
        wanted = list(zip(pieces.digests[first:last], pieces.sizes[first:last], strict=True))
        arriving = dock.client.fetch_range(
            *dock.address,
            expect=dock.peer,
            manifest=pieces.manifest,
            pieces=wanted,
            start=start,
            end=end,
            on_bytes=lambda _: None,
        )
        async for index, stored in arriving:
            stick.store.put(wanted[index][0], stored)
    stick.store.sync(pieces.digests)


def _runs(pieces: PieceMap, stick: Stick) -> Iterator[tuple[int, int]]:
    """Ranges of pieces that the stick lacks, each of about BATCH_BYTES."""
    first, size = 0, 0
    for at, digest in enumerate(pieces.digests):
        is_held = stick.store.has(digest)
        if first < at and (is_held or size >= BATCH_BYTES or at - first >= BATCH_PIECES_MAX):
            yield first, at
            first, size = at, 0
        if is_held:
            first = at + 1
        else:
            size += pieces.sizes[at]
    if first < len(pieces.digests):
        yield first, len(pieces.digests)


# --- at an air-gapped site -----------------------------------------------------------------------


async def _at_the_site(dock: MirrorTarget, stick: Stick) -> None:
    brought = stick.metadata()
    # First, for a mirror that has none can check no order; and halts must reach it all the same.
    await _bring_metadata(dock, brought)
    async with talking(dock.client, dock.address, beacon=stick.beacon()) as talk:
        await _give_orders(dock, stick, talk.orders)
        await _come_home(dock, stick)
    if brought is not None:
        for digest, data, manifest in stick.manifests(await _listed(dock, brought)):
            await _give(dock, stick, (digest, data), manifest)
    outbound = await _outbound(dock)
    stick.keep_outbound(outbound)
    asked, requests = len(outbound.questions), len(outbound.requests)
    wanted = f"{asked} that want a lease, {requests} that want a certificate"
    say(f"taken along: {wanted}, {len(outbound.receipts)} receipt(s)")
    if brought is not None:
        await _bring_orders_home(dock, stick, brought, talk.orders)


async def _listed(dock: MirrorTarget, brought: MetadataFiles) -> set[str]:
    """The manifests of the releases that the stick's own signed metadata lists."""
    files = CarriedFiles(brought)
    async with _catalogue(dock, brought.files.get("1.root.json", b"")) as catalogue:
        with suppress(FiredoorError):
            await catalogue.refresh(files, files.targets)
        return {each.manifest for each in (*catalogue.releases, *catalogue.dateless)}


async def _outbound(dock: MirrorTarget) -> Outbound:
    """What the site asks; its mirror speaks for no other site."""
    answer = await dock.get("/v1/stick", STICK_BYTES_MAX)
    outbound = decode(Outbound, answer, what="/v1/stick", limit=STICK_BYTES_MAX)
    if outbound.mirror != dock.peer:
        got = f"that of {outbound.mirror[:12]}"
        raise Untrusted("/v1/stick", wanted="what this mirror's site asks", got=got)
    return outbound


async def _bring_metadata(dock: MirrorTarget, brought: MetadataFiles | None) -> None:
    if brought is not None:
        try:
            await dock.post("/v1/stick/metadata", encode(brought))
        except FiredoorError as error:
            say(f"metadata is not brought: {error}")


async def _bring_orders_home(
    dock: MirrorTarget, stick: Stick, brought: MetadataFiles, there: Sequence[bytes]
) -> None:
    """Orders that were handed over at the site, which the fleet may not have heard of."""
    files = CarriedFiles(brought)
    async with _catalogue(dock, brought.files.get("1.root.json", b"")) as catalogue:
        with suppress(FiredoorError):
            # Its dates may be over by now; the keys are good.
            await catalogue.refresh(files, files.targets)
        if catalogue.authority is not None:
            _take_orders(stick, stick.beacon(), there, catalogue.authority)


async def _come_home(dock: MirrorTarget, stick: Stick) -> None:
    inbound = stick.inbound(dock.peer)
    if inbound is None:
        say("nothing has come for this site yet: carry the stick to the fleet, and back")
        return
    try:
        said = await dock.post("/v1/stick", encode(inbound))
        done = decode(ImportResult, said, what="/v1/stick", limit=ENROLMENT_BYTES_MAX)
    except FiredoorError as error:
        say(f"what has come for this site is not taken: {error}")
        return
    lease = "the mirror has a lease" if done.is_leased else "no lease"
    why = f": {plain(done.why)}" if done.why else ""
    say(f"{lease}{why}; {done.told} endpoint(s) told, {done.certificates} certificate(s)")


async def _give(
    dock: MirrorTarget, stick: Stick, release: tuple[str, bytes], manifest: Manifest
) -> None:
    """Bring the mirror a release, digest and bytes of its manifest, if the stick has it whole."""
    digest, data = release
    name = f"{manifest.product} {manifest.version}"
    if digest in dock.whole():
        return
    if not all(stick.store.has(piece) for piece in piece_map(digest, manifest).digests):
        say(f"{name} is not whole on the stick")
        return
    try:
        await dock.post(f"/v1/stick/manifest/{digest}", data)
        answer = await dock.get(f"/v1/stick/missing/{digest}", ANSWER_BYTES_MAX)
        missing = digests_of(answer, what="missing pieces")
        for piece in missing:
            stored = stick.store.get(piece)
            if stored is None:
                raise Unavailable(name, why="the stick is damaged; carry it to the fleet again")
            await dock.post(f"/v1/stick/piece/{digest}", stored, {"X-Piece": piece.hex()})
        await dock.post(f"/v1/stick/whole/{digest}", b"")
        say(f"{name}: {len(missing)} piece(s) were new here")
    except FiredoorError as error:
        # The mirror's own sentence, without the path that was asked.
        say(f"{name} is not given: {error.why if isinstance(error, Unavailable) else error}")
