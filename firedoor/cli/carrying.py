"""`firedoor carry`: a folder between an air-gapped site and its fleet, by the same command at both.

At a mirror that a network joins to the fleet, or the origin: take metadata, orders and releases
along, and have answered what the sites asked. At an air-gapped site's mirror: give all that, and
take along what the site asks. Orders go both ways at either.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firedoor.cli.common import open_key, say, status_at, with_client
from firedoor.cli.handing import give
from firedoor.cli.origin import ANSWER_BYTES_MAX, origin_of
from firedoor.cli.stick_folder import Stick
from firedoor.cli.talk import Talk, talking
from firedoor.errors import Denied, FiredoorError, Malformed, Unavailable
from firedoor.halt.carried import root_of_questions
from firedoor.halt.envelope import Envelope, id_of
from firedoor.identity import FleetId, PeerId, Role
from firedoor.limits import (
    BATCH_BYTES,
    BATCH_PIECES_MAX,
    ENROLMENT_BYTES_MAX,
    METADATA_BYTES_MAX,
    ORDER_BYTES_MAX,
)
from firedoor.pieces.inventory import PieceMap, piece_map
from firedoor.runtime.catalogue import Catalogue
from firedoor.runtime.peer_client import PeerClient
from firedoor.runtime.screen import plain
from firedoor.runtime.settings import split_address
from firedoor.runtime.trust_client import ReleaseEntry
from firedoor.wire.codec import decode, encode, unpack
from firedoor.wire.stick import (
    STICK_BYTES_MAX,
    Answer,
    Homecoming,
    Inbound,
    MetadataFiles,
    Outbound,
)

# A mirror verifies and syncs what it is given before it answers.
_GIVE_S = 120.0


@dataclass(frozen=True, slots=True)
class Dock:
    """The mirror that the stick is at. `status`: as it gave it when the visit began."""

    client: PeerClient
    fleet: FleetId
    address: tuple[str, int]
    peer: PeerId
    status: dict[str, Any]

    async def get(self, path: str, limit: int) -> bytes:
        """What it has at `path`; raises as `PeerClient.get`."""
        return await self.client.get(*self.address, path, expect=self.peer, limit=limit)

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
        status = await status_at(client, address)
        if status["role"] != Role.MIRROR.value:
            raise Malformed(f"{address[0]}:{address[1]}", wanted="a mirror", got=status["role"])
        dock = Dock(client, FleetId(key.fleet), address, PeerId(status["id"]), status)
        if status.get("is_fed_by_stick"):
            await _at_the_site(dock, stick)
        else:
            await _at_the_fleet(dock, stick)

    with_client(key, visit)


# --- both ends -----------------------------------------------------------------------------------


async def _swap_orders(dock: Dock, stick: Stick, there: list[bytes]) -> None:
    """Orders go both ways. One that this mirror refuses, another one may take."""
    theirs = {_id(dock, one): one for one in there}
    mine = {_id(dock, one): one for one in stick.orders()}
    given = 0
    for order in [each for each in mine if each not in theirs]:
        try:
            await give(dock.client, dock.address, mine[order], order)
            given += 1
        except Denied as error:
            say(f"order {order.hex()[:12]} is refused there: {error}")
    stick.keep_orders(tuple((mine | theirs).values()))
    say(f"orders: {given} were new here, {len(mine | theirs)} on the stick")


def _id(dock: Dock, record: bytes) -> bytes:
    return id_of(dock.fleet, decode(Envelope, record, what="order", limit=ORDER_BYTES_MAX))


# --- where a network leads to the origin ---------------------------------------------------------


async def _at_the_fleet(dock: Dock, stick: Stick) -> None:
    async with talking(dock.client, dock.address) as talk:
        # Before all that may fail: nothing else stops anything.
        await _swap_orders(dock, stick, talk.orders)
        root = await dock.get("/v1/metadata/1.root.json", METADATA_BYTES_MAX)
        catalogue = stick.catalogue(root)
        await catalogue.refresh(dock.get)
        for outbound in stick.all_outbound():
            await _answer(dock, stick, outbound, talk=talk, catalogue=catalogue)
        stick.keep_beacon(talk.beacon)
        for entry in _newest(dock, catalogue):
            await _take(dock, stick, catalogue, entry)


async def _answer(
    dock: Dock, stick: Stick, outbound: Outbound, *, talk: Talk, catalogue: Catalogue
) -> None:
    """Have signed and renewed what one site asks for, and say what it has done."""
    talk.hand_up(outbound.receipts)
    answer = None
    if outbound.questions:
        root = root_of_questions(outbound.questions)
        given = await talk.lease(root, catalogue, dock.get)
        answer = Answer(given.record, given.path, outbound.questions)
    certificates = []
    for request in outbound.requests:
        try:
            certificates.append(await dock.post("/v1/renew", request))
        except FiredoorError as error:
            say(f"a certificate is not renewed: {error}")
    stick.keep_inbound(outbound.mirror, Inbound(answer, tuple(certificates)))
    leases = (
        f"leases for {len(outbound.questions)}" if outbound.questions else "no leases asked for"
    )
    done = f"{len(certificates)} certificate(s), {len(outbound.receipts)} receipt(s) handed up"
    say(f"site of mirror {outbound.mirror[:12]}: {leases}, {done}")


def _newest(dock: Dock, catalogue: Catalogue) -> list[ReleaseEntry]:
    """Of each product the newest release that may move."""
    able = {row["manifest"] for row in dock.status["releases"] if row["level"] == 0}
    newest: dict[str, ReleaseEntry] = {}
    for entry in sorted(catalogue.releases, key=lambda each: each.counter):
        if entry.manifest in able:
            newest[entry.product] = entry
    return [newest[product] for product in sorted(newest)]


async def _take(dock: Dock, stick: Stick, catalogue: Catalogue, entry: ReleaseEntry) -> None:
    """Put one release on the stick, whole."""
    name = f"{entry.product} {entry.version}"
    try:
        pieces = piece_map(entry.manifest, await catalogue.manifest(entry, dock.get))
        await _fetch(dock, stick, pieces)
    except FiredoorError as error:
        say(f"{name} is not taken along: {error}")
    else:
        say(f"{name} is on the stick")


async def _fetch(dock: Dock, stick: Stick, pieces: PieceMap) -> None:
    stick.store.make_sure_of_room(
        sum(
            size
            for digest, size in zip(pieces.digests, pieces.sizes, strict=True)
            if not stick.store.has(digest)
        )
    )
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


async def _at_the_site(dock: Dock, stick: Stick) -> None:
    catalogue = await _bring_metadata(dock, stick)
    async with talking(dock.client, dock.address) as talk:
        await _swap_orders(dock, stick, talk.orders)
    async with talking(dock.client, dock.address, beacon=stick.beacon()):
        await _come_home(dock, stick)
    for entry in catalogue.releases if catalogue is not None else ():
        assert catalogue is not None
        await _give(dock, stick, catalogue, entry)
    answer = await dock.get("/v1/stick", STICK_BYTES_MAX)
    outbound = decode(Outbound, answer, what="/v1/stick", limit=STICK_BYTES_MAX)
    stick.keep_outbound(outbound)
    asked, requests = len(outbound.questions), len(outbound.requests)
    wanted = f"{asked} that want a lease, {requests} that want a certificate"
    say(f"taken along: {wanted}, {len(outbound.receipts)} receipt(s)")


async def _bring_metadata(dock: Dock, stick: Stick) -> Catalogue | None:
    """First of all, for a mirror that has none can check no order; None: the stick has none."""
    try:
        catalogue = stick.catalogue()
        await dock.post("/v1/stick/metadata", encode(MetadataFiles(catalogue.files())))
    except FiredoorError as error:
        # Halts must reach the site all the same.
        say(f"metadata is not brought: {error}")
        return None
    return catalogue


async def _come_home(dock: Dock, stick: Stick) -> None:
    inbound = stick.inbound(dock.peer)
    if inbound is None:
        say("nothing has come for this site yet: carry the stick to the fleet, and back")
        return
    try:
        said = await dock.post("/v1/stick", encode(inbound))
        done = decode(Homecoming, said, what="/v1/stick", limit=ENROLMENT_BYTES_MAX)
    except FiredoorError as error:
        say(f"what has come for this site is not taken: {error}")
        return
    lease = "the mirror has a lease" if done.is_leased else f"no lease: {plain(done.why)}"
    say(f"{lease}; {done.told} endpoint(s) told, {done.certificates} certificate(s)")


async def _give(dock: Dock, stick: Stick, catalogue: Catalogue, entry: ReleaseEntry) -> None:
    """Bring the mirror one release, if the stick has it whole."""
    held = catalogue.manifest_bytes(entry.manifest)
    manifest = catalogue.held_manifest(entry.manifest)
    if held is None or manifest is None:
        return
    name = f"{entry.product} {entry.version}"
    if not all(stick.store.has(digest) for digest in piece_map(entry.manifest, manifest).digests):
        say(f"{name} is not whole on the stick")
        return
    try:
        await dock.post(f"/v1/stick/manifest/{entry.manifest}", held)
        answer = await dock.get(f"/v1/stick/missing/{entry.manifest}", ANSWER_BYTES_MAX)
        missing = unpack(answer, what="missing pieces", limit=ANSWER_BYTES_MAX)
        if not isinstance(missing, list) or not all(isinstance(one, bytes) for one in missing):
            raise Malformed("missing pieces", wanted="digests", got=type(missing).__name__)
        for digest in missing:
            stored = stick.store.get(digest)
            if stored is None:
                raise Unavailable(name, why="the stick is damaged; carry it to the fleet again")
            path = f"/v1/stick/piece/{entry.manifest}"
            await dock.post(path, stored, {"X-Piece": digest.hex()})
        if missing:
            await dock.post(f"/v1/stick/whole/{entry.manifest}", b"")
        say(f"{name}: {len(missing)} piece(s) were new here")
    except FiredoorError as error:
        # The mirror's own sentence, without the path that was asked.
        say(f"{name} is not given: {error.why if isinstance(error, Unavailable) else error}")
