"""What `firedoor carry` makes of mirrors that hang up, send junk, or answer for others."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from firedoor.cli.airgap.bundle import Stick
from firedoor.cli.airgap.carry import MirrorTarget, _answer, _outbound
from firedoor.cli.client.mirror_session import talking
from firedoor.cli.client.peer_status import status_of
from firedoor.errors import Malformed, Unavailable, Untrusted
from firedoor.halt.envelope import seal
from firedoor.halt.merkle import climb
from firedoor.identity import Role
from firedoor.limits import ORDERS_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.runtime.network.conversation import Conversation
from firedoor.trust.keys import key_of
from firedoor.wire.codec import encode
from firedoor.wire.messages import (
    LeaseAsked,
    LeaseGiven,
    Orders,
    OrdersDone,
    decode_message,
    encode_message,
)
from firedoor.wire.stick import Answer, Inbound, Outbound, Question
from tests.unit.firedoor.halt.test_lease import AUTHORITY, FLEET, SAID, SEED
from tests.unit.firedoor.runtime.network.test_transfers import (
    MIRROR_SEED,
    Fake,
    credentials,
    id_of,
    run,
    site,
)
from tests.unit.origin_bench import Bench

NOTHING = status_of({"id": "0" * 32, "role": "mirror", "site": "", "releases": [], "orders": []})
OPERATOR = credentials(b"\5" * 32, Role.OPERATOR)
NONCE, OTHER = sha256(b"mine").digest(), sha256(b"another's").digest()

Serve = Callable[[Conversation], Awaitable[None]]


def lease_over(nonce: bytes) -> bytes:
    """What the origin signs for a site that has no orders."""
    said = replace(SAID, count=0, orders=sha256(b"").digest(), nonces=climb(nonce, ()))
    return seal("lease", said, fleet=FLEET, keys={key_of(SEED).keyid: SEED})[1]


@asynccontextmanager
async def docked(serve: Serve | None, **answers: bytes) -> AsyncIterator[MirrorTarget]:
    """A mirror that talks so, and answers GET /v1/stick with `stick`."""

    async def stick(request: web.Request) -> web.Response:
        del request
        return web.Response(body=answers["stick"])

    more = [web.get("/v1/stick", stick)]
    async with site(Fake(talk=serve), agent=OPERATOR, more=more) as made:
        address = ("127.0.0.1", made.port)
        yield MirrorTarget(made.client, FLEET, address, id_of(MIRROR_SEED), NOTHING)


async def in_step(talk: Conversation) -> None:
    """All orders are sent, which are none; then frames are heard until the end."""
    talk.send(encode_message(OrdersDone()))
    async for _ in talk.frames():
        pass


def test_a_mirror_that_hangs_up_is_said_to() -> None:
    async def hang_up(talk: Conversation) -> None:
        talk.close()

    async def work() -> None:
        async with docked(hang_up) as dock:
            with pytest.raises(Unavailable, match="ended the conversation"):
                async with talking(dock.client, dock.address):
                    pass

    run(work())


def test_a_mirror_that_sends_junk_is_told_by_what_it_sent() -> None:
    async def junk(talk: Conversation) -> None:
        talk.send(b"junk")
        await in_step(talk)

    async def work() -> None:
        async with docked(junk) as dock:
            with pytest.raises(Malformed, match="frame"):
                async with talking(dock.client, dock.address):
                    pass

    run(work())


def test_no_mirror_sends_more_orders_than_a_node_holds() -> None:
    async def flood(talk: Conversation) -> None:
        frame = encode_message(Orders((b"order",) * (ORDERS_MAX // 2 + 1)))
        talk.send(frame)
        talk.send(frame)
        await in_step(talk)

    async def work() -> None:
        async with docked(flood) as dock, talking(dock.client, dock.address) as talk:
            assert len(talk.orders) == ORDERS_MAX

    run(work())


def answering(*answers: bytes) -> Serve:
    """Each question gets the next of these leases; then there are none."""

    async def serve(talk: Conversation) -> None:
        talk.send(encode_message(OrdersDone()))
        left = list(answers)
        async for frame in talk.frames():
            if isinstance(decode_message(frame), LeaseAsked):
                if not left:
                    return
                talk.send(encode_message(LeaseGiven(left.pop(0), ())))

    return serve


@pytest.fixture
def catalogue(bench: Bench, tmp_path: Path) -> Catalogue:
    root = (bench.fleet / "root.json").read_bytes()
    made = Catalogue(tmp_path / "catalogue", root=root, fleet=fleet_of(root), clock=Clock())
    made.authority = AUTHORITY
    return made


async def nothing_new(path: str, limit: int) -> bytes:
    raise Unavailable(path, why=f"none of {limit} bytes")


def test_a_late_answer_for_another_site_is_passed_over(catalogue: Catalogue) -> None:
    async def work() -> None:
        serve = answering(lease_over(OTHER), lease_over(NONCE))
        async with docked(serve) as dock, talking(dock.client, dock.address) as talk:
            given = await talk.lease(NONCE, catalogue, nothing_new)
            assert given.record == lease_over(NONCE)

    run(work())


def test_a_lease_that_no_beacon_key_has_signed_goes_on_no_stick(catalogue: Catalogue) -> None:
    async def work() -> None:
        said = replace(SAID, nonces=climb(NONCE, ()))
        forged = seal("lease", said, fleet=FLEET, keys={key_of(SEED).keyid: b"x" * 32})[1]
        async with docked(answering(forged)) as dock, talking(dock.client, dock.address) as talk:
            with pytest.raises(Untrusted):
                await talk.lease(NONCE, catalogue, nothing_new)

    run(work())


def test_a_visit_without_an_answer_keeps_the_one_that_was_not_home_yet(
    catalogue: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stick, mirror = Stick(tmp_path / "stick", FLEET), "0a" * 16
    questions = (Question("0b" * 16, NONCE),)
    earlier = Inbound(Answer(b"lease", (), questions), (b"pem",))
    stick.keep_inbound(mirror, earlier)

    async def work() -> None:
        async with docked(answering()) as dock, talking(dock.client, dock.address) as talk:
            asked: Any = Outbound(mirror, questions, ())
            await _answer(dock, stick, asked, talk=talk, catalogue=catalogue)

    run(work())
    assert stick.inbound(mirror) == earlier
    said = capsys.readouterr().out
    assert "no leases for the site" in said
    assert "leases for 1" not in said


def test_a_mirror_asks_for_its_own_site_alone() -> None:
    async def work() -> None:
        async with docked(None, stick=encode(Outbound(id_of(MIRROR_SEED), (), ()))) as dock:
            assert (await _outbound(dock)).mirror == dock.peer
        async with docked(None, stick=encode(Outbound("0a" * 16, (), ()))) as dock:
            with pytest.raises(Untrusted, match="what this mirror's site asks"):
                await _outbound(dock)

    run(work())
