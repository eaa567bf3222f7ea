"""The mTLS port and its client over real loopback connections: ranges, gates, cuts, refusals."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from aiohttp import web
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firedoor.errors import (
    Denied,
    Halted,
    Malformed,
    Refused,
    Stale,
    TooLarge,
    Unavailable,
    Untrusted,
)
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import GATE_BYTES, OUTBOX_FRAMES_MAX, TRANSFERS_MAX, TRANSFERS_PER_PEER_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.authority import issue, make_authority, make_request, peer_id
from firedoor.runtime.keys.key_files import KeyFile
from firedoor.runtime.keys.tls import Credentials, client_context, credentials_of, role_name
from firedoor.runtime.keys.tls import server_context as server_context_of
from firedoor.runtime.network.conversation import Conversation
from firedoor.runtime.network.listening import serve
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.network.peer_server import build_app
from firedoor.runtime.network.transfers import Transfers
from firedoor.units import UnixTime

NOW = UnixTime(1_700_000_000)
CA_SEED = b"\1" * 32
CA = make_authority("test", CA_SEED, NOW)
MIRROR_SEED, AGENT_SEED = b"\3" * 32, b"\4" * 32
MANIFEST = "ab" * 32
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])

# Far above what one test moves, far below what would hide a hang.
DEADLINE_S = 20.0

# What the receiver's own kernel had taken before the cut: its queue of 64 KiB, which Linux doubles,
# and a TLS record.
LEAK_BYTES_MAX = 2 * 64 * 1024 + 16 * 1024


class StillClock(Clock):
    """Runs, but its wall clock stands within the dates of the certificates."""

    def unix(self) -> UnixTime:
        return NOW


def id_of(seed: bytes) -> PeerId:
    return peer_id(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())


def credentials(seed: bytes, role: Role, *, age_days: int = 0) -> Credentials:
    certificate = issue(
        make_request(seed),
        ca_pem=CA,
        ca_seed=CA_SEED,
        role=role,
        site="branch",
        now=UnixTime(NOW - age_days * 86400),
    )
    seeds = (b"\0" * 32 + seed).hex()
    return credentials_of(
        KeyFile("r", "n", "f", "k", "p", seeds, certificate.decode(), CA.decode())
    )


MIRROR = credentials(MIRROR_SEED, Role.MIRROR)
AGENT = credentials(AGENT_SEED, Role.AGENT)
EXPIRED = credentials(AGENT_SEED, Role.AGENT, age_days=30)


@dataclass
class Fake:
    """A `Backend` that holds equal-sized pieces of one release."""

    count: int = 4
    size: int = 300_000
    refusal: Exception | None = None
    is_denied: bool = False
    banned_after: int = 1 << 60
    denied_after: int = 1 << 60
    lies: bool = False
    lost: set[int] = field(default_factory=set)
    asked: list[Peer] = field(default_factory=list)
    sent_bytes: int = 0
    talk: Callable[[Conversation], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        self.stored = [bytes([index]) * self.size for index in range(self.count)]
        self.digests = [blake3(data).digest() for data in self.stored]

    async def converse(self, peer: Peer, host: str, socket: Conversation) -> None:
        self.asked.append(peer)
        if self.talk is not None:
            await self.talk(socket)
            return
        async for frame in socket.frames():
            socket.send(b"echo " + frame)

    def pieces(self, peer: Peer, manifest: str, start: int, end: int) -> tuple[bytes, ...]:
        self.asked.append(peer)
        if not peer.is_current:
            raise Untrusted("certificate", wanted="one within its dates", got="an expired one")
        if self.refusal is not None:
            raise self.refusal
        if start % self.size or end % self.size:
            raise Malformed("Range", wanted="piece borders", got=f"{start}-{end}")
        return tuple(self.digests[start // self.size : end // self.size])

    def refuses(self, peer: Peer) -> bool:
        del peer
        return self.sent_bytes >= self.banned_after

    def permits(self, manifest: str) -> bool:
        return not self.is_denied and self.sent_bytes < self.denied_after

    async def piece(self, digest: bytes) -> bytes | None:
        index = self.digests.index(digest)
        if index in self.lost:
            return None
        return bytes(self.size) if self.lies and index == 1 else self.stored[index]

    async def metadata(self, name: str) -> bytes | None:
        return b"signed" if name == "timestamp.json" else None

    async def target(self, digest: str) -> bytes | None:
        return b"manifest" if digest == MANIFEST else None

    def status(self, peer: Peer) -> dict[str, Any]:
        return {
            "id": peer.id,
            "bytes": {"peer": 5},
            "refusals": {"untrusted": 2},
            "covered": {"bytes": 7},
            "orders": [],
            "peers": [],
        }

    def sent(self, peer: Peer, count: int) -> None:
        self.sent_bytes += count


@dataclass
class Site:
    """One mirror that serves `backend`, and one agent."""

    backend: Fake
    client: PeerClient
    transfers: Transfers
    port: int
    received: int = 0

    async def fetch(self, first: int = 0, last: int | None = None) -> list[bytes]:
        return [stored async for _, stored in self.arriving(first, last)]

    def arriving(self, first: int = 0, last: int | None = None) -> AsyncIterator[tuple[int, bytes]]:
        backend = self.backend
        last = backend.count if last is None else last
        return self.client.fetch_range(
            "127.0.0.1",
            self.port,
            expect=id_of(MIRROR_SEED),
            manifest=MANIFEST,
            pieces=[(digest, backend.size) for digest in backend.digests[first:last]],
            start=first * backend.size,
            end=last * backend.size,
            on_bytes=self._count,
        )

    def _count(self, count: int) -> None:
        self.received += count

    async def get(self, path: str, limit: int = 10_000) -> bytes:
        return await self.client.get("127.0.0.1", self.port, path, limit=limit, role=Role.MIRROR)

    async def post(self, path: str, body: bytes) -> bytes:
        return await self.client.post("127.0.0.1", self.port, path, body, limit=10_000)

    async def dial(self) -> tuple[Peer, Conversation]:
        return await self.client.dial("127.0.0.1", self.port, role=Role.MIRROR)


@asynccontextmanager
async def site(
    backend: Fake,
    *,
    agent: Credentials = AGENT,
    send: int = 0,
    receive: int = 0,
    more: Sequence[web.RouteDef] = (),
) -> AsyncIterator[Site]:
    clock, transfers = StillClock(), Transfers()
    app = build_app(
        backend, transfers=transfers, budget=Budget(send), clock=clock, extra_routes=more
    )
    server = await serve(app, "127.0.0.1:0", server_context_of(MIRROR))
    client = PeerClient(agent, clock, Budget(receive))
    try:
        yield Site(backend, client, transfers, server.port)
    finally:
        await client.close()
        await server.close()


def run(work: Awaitable[Any], loop: Callable[[], Any] = uvloop.new_event_loop) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await work

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(bounded())


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for an event that has no other sign; the deadline of `run` bounds it."""
    while not is_so():
        await asyncio.sleep(0.001)


# --- ranges ------------------------------------------------------------------------------------


@LOOPS
def test_a_range_arrives_whole_and_in_order(loop: Callable[[], Any]) -> None:
    async def work() -> None:
        async with site(Fake()) as made:
            assert await made.fetch() == made.backend.stored
            assert await made.fetch(1, 3) == made.backend.stored[1:3]
            assert made.received == made.backend.sent_bytes == 6 * made.backend.size
            assert made.backend.asked[0] == Peer(id_of(AGENT_SEED), Role.AGENT, "branch")
            await until(lambda: len(made.transfers) == 0)

    run(work(), loop)


def test_a_piece_with_other_bytes_is_untrusted_and_the_one_before_it_is_kept() -> None:
    async def work() -> None:
        async with site(Fake(lies=True)) as made:
            kept: list[int] = []

            async def keep() -> None:
                async for index, _ in made.arriving():
                    kept.append(index)

            with pytest.raises(Untrusted):
                await keep()
            assert kept == [0]

    run(work())


def test_a_ban_ends_a_transfer_that_is_under_way() -> None:
    async def work() -> None:
        async with site(Fake(banned_after=1)) as made:
            with pytest.raises(Unavailable):
                await made.fetch()
            assert 0 < made.backend.sent_bytes < made.backend.size

    run(work())


def test_whoever_is_banned_is_refused_by_name() -> None:
    async def work() -> None:
        async with site(Fake(banned_after=0)) as made:
            with pytest.raises(Refused, match="not banned"):
                await made.fetch()
            assert made.backend.asked == []

    run(work())


def test_a_piece_that_is_gone_ends_the_body_early() -> None:
    async def work() -> None:
        async with site(Fake(lost={2})) as made:
            with pytest.raises(Unavailable):
                await made.fetch()
            assert made.received <= 2 * made.backend.size

    run(work())


@pytest.mark.parametrize(
    ("refusal", "raised"),
    [
        (Unavailable("pieces", why="orders must be synced first"), Unavailable),
        (Halted("abc", level=2), Halted),
        (KeyError("release"), Unavailable),
        (Malformed("Range", wanted="piece borders", got="others"), Denied),
        (TooLarge("Range", limit=1, size=2), Refused),
        (Stale("x", trusted=2, offered=1), Refused),
    ],
)
def test_a_refusal_reaches_the_asker_in_the_peers_own_words(
    refusal: Exception, raised: type[Exception]
) -> None:
    async def work() -> None:
        async with site(Fake(refusal=refusal)) as made:
            said = "no such release" if isinstance(refusal, KeyError) else str(refusal)
            with pytest.raises(raised, match=said):
                await made.fetch()
            assert made.received == 0

    run(work())


def test_a_request_without_one_plain_range_is_refused() -> None:
    async def work() -> None:
        async with site(Fake()) as made:
            with pytest.raises(Denied):
                await made.get(f"/v1/releases/{MANIFEST}/payload")
            assert not made.backend.asked

    run(work())


def test_more_transfers_than_places_are_told_to_come_back() -> None:
    async def work() -> None:
        async with site(Fake()) as made:
            with ExitStack() as taken:
                for number in range(TRANSFERS_MAX):
                    place = made.transfers.open(MANIFEST, PeerId(f"{number}"), FakeTransport())
                    taken.enter_context(place)
                with pytest.raises(Unavailable, match="ask again"):
                    await made.fetch()
            assert await made.fetch()

    run(work())


def test_one_peer_cannot_take_all_places() -> None:
    async def work() -> None:
        async with site(Fake()) as made:
            with ExitStack() as taken:
                for _ in range(TRANSFERS_PER_PEER_MAX):
                    place = made.transfers.open(MANIFEST, PeerId("greedy"), FakeTransport())
                    taken.enter_context(place)
                with pytest.raises(Unavailable, match="ask again"):
                    taken.enter_context(
                        made.transfers.open(MANIFEST, PeerId("greedy"), FakeTransport())
                    )
                assert await made.fetch()

    run(work())


class FakeTransport(asyncio.Transport):
    """A transport without a socket."""

    def abort(self) -> None:
        """Nothing to end."""


# --- gates and cuts ----------------------------------------------------------------------------


def test_a_gate_that_closes_in_mid_transfer_stops_the_bytes_at_the_next_portion() -> None:
    async def work() -> None:
        async with site(Fake(count=8, denied_after=500_000)) as made:
            with pytest.raises(Unavailable):
                await made.fetch()
            assert 500_000 <= made.backend.sent_bytes < 500_000 + GATE_BYTES
            assert made.received <= made.backend.sent_bytes
            await until(lambda: len(made.transfers) == 0)

    run(work())


def slow_reader(port: int, size: int) -> ssl.SSLSocket:
    """A receiver with a small kernel queue that has asked for `size` bytes and reads by hand."""
    plain = socket.socket()
    plain.settimeout(DEADLINE_S)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    plain.connect(("127.0.0.1", port))
    held = client_context(AGENT).wrap_socket(plain, server_hostname=role_name(Role.MIRROR))
    path = f"/v1/releases/{MANIFEST}/payload"
    held.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-{size - 1}\r\n\r\n".encode())
    return held


def read_to_the_end(held: ssl.SSLSocket) -> tuple[int, type[BaseException] | None]:
    """How many bytes, TLS and all, still came, and what ended them."""
    came = 0
    # Below TLS, where Python 3.11 takes a reset for an end.
    with socket.socket(fileno=held.detach()) as plain:
        plain.settimeout(DEADLINE_S)
        try:
            while part := plain.recv(GATE_BYTES):
                came += len(part)
        except OSError as error:
            return came, type(error)
    return came, None


@LOOPS
def test_a_cut_is_a_reset_after_which_little_arrives(loop: Callable[[], Any]) -> None:
    async def work() -> None:
        async with site(Fake(count=16, size=1 << 20)) as made:
            size = made.backend.count * made.backend.size
            held = await asyncio.to_thread(slow_reader, made.port, size)
            await asyncio.to_thread(held.recv, 1)
            # The reader has stopped, so the queues fill and the server stands still.
            stood = -1
            while stood != made.backend.sent_bytes:
                stood = made.backend.sent_bytes
                await asyncio.sleep(0.05)
            assert 0 < stood < size
            assert made.transfers.cut(lambda manifest: manifest == MANIFEST) == 1
            assert made.transfers.cut_count == 1
            assert made.transfers.cut(lambda manifest: True) == 0
            # The loop closes what was aborted in its next turn.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            came, ended_by = await asyncio.to_thread(read_to_the_end, held)
            assert ended_by is ConnectionResetError
            assert came <= LEAK_BYTES_MAX

    run(work(), loop)


def test_a_cut_spares_other_releases() -> None:
    async def work() -> None:
        async with site(Fake(count=8, size=100_000), send=8_000_000) as made:
            async with asyncio.TaskGroup() as group:
                fetching = group.create_task(made.fetch())
                await until(lambda: made.received > 0)
                assert made.transfers.cut(lambda manifest: manifest != MANIFEST) == 0
            assert fetching.result() == made.backend.stored

    run(work())


@LOOPS
def test_a_cancelled_fetch_drops_its_connection_at_once(loop: Callable[[], Any]) -> None:
    async def work() -> None:
        async with site(Fake(count=64, size=1 << 20), receive=2_000_000) as made:
            fetching = asyncio.ensure_future(made.fetch())
            await until(lambda: made.received > 0)
            fetching.cancel()
            await asyncio.wait({fetching})
            assert fetching.cancelled()
            async with asyncio.timeout(1.0):
                await until(lambda: len(made.transfers) == 0)
            assert made.backend.sent_bytes < 4 << 20

    run(work(), loop)


def test_a_fetch_that_is_left_drops_its_connection_too() -> None:
    async def work() -> None:
        async with site(Fake(count=64, size=300_000), receive=4_000_000) as made:
            async with aclosing(made.arriving()) as arriving:  # type: ignore[type-var]  # a generator
                async for _ in arriving:
                    break
            async with asyncio.timeout(1.0):
                await until(lambda: len(made.transfers) == 0)

    run(work())


def test_a_receive_budget_is_kept() -> None:
    async def work() -> None:
        async with site(Fake(count=4, size=125_000), receive=2_500_000) as made:
            began = asyncio.get_running_loop().time()
            await made.fetch()
            # 500 kB at 2.5 MB/s.
            assert asyncio.get_running_loop().time() - began > 0.19

    run(work())


# --- identity ----------------------------------------------------------------------------------


def test_without_a_certificate_nothing_is_served() -> None:
    def answer(port: int) -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as plain:
            # TLS 1.3 tells a client only when it reads that its certificate was wanted.
            with context.wrap_socket(plain) as held, suppress(OSError):
                held.sendall(b"GET /v1/metadata/timestamp.json HTTP/1.1\r\nHost: x\r\n\r\n")
                return held.recv(1000)
            return b""

    async def work() -> None:
        async with site(Fake()) as made:
            assert await asyncio.to_thread(answer, made.port) == b""
            assert not made.backend.asked

    run(work())


def test_a_client_of_another_fleet_hears_why_in_words() -> None:
    seed = b"\7" * 32
    foreign_ca = make_authority("foreign", seed, NOW)
    leaf = issue(
        make_request(AGENT_SEED),
        ca_pem=foreign_ca,
        ca_seed=seed,
        role=Role.AGENT,
        site="branch",
        now=NOW,
    )
    foreign = Credentials(leaf, AGENT.key, CA)

    async def work() -> None:
        async with site(Fake(), agent=foreign) as made:
            for asking in (made.get("/v1/metadata/timestamp.json"), made.fetch(), made.dial()):
                with pytest.raises(Unavailable, match="certificate"):
                    await asking
            assert not made.backend.asked

    run(work())


def test_a_server_that_is_not_the_expected_peer_is_refused() -> None:
    async def work() -> None:
        async with site(Fake()) as made:
            with pytest.raises(Unavailable, match="certificate"):
                await made.client.dial("127.0.0.1", made.port, expect=id_of(AGENT_SEED))
            with pytest.raises(Unavailable, match="certificate"):
                await made.client.dial("127.0.0.1", made.port, role=Role.AGENT)
            with pytest.raises(ValueError, match="verify"):
                await made.client.dial("127.0.0.1", made.port)

    run(work())


def test_an_expired_certificate_talks_and_reads_metadata_but_gets_no_release() -> None:
    async def work() -> None:
        async with site(Fake(), agent=EXPIRED) as made:
            with pytest.raises(Refused, match="expired"):
                await made.fetch()
            with pytest.raises(Refused, match="expired"):
                await made.get(f"/v1/targets/releases/tool/{MANIFEST}.1.0")
            assert await made.get("/v1/metadata/timestamp.json") == b"signed"
            _, talk = await made.dial()
            talk.send(b"order")
            async with aclosing(talk.frames()) as frames:  # type: ignore[type-var]  # a generator
                assert await anext(frames) == b"echo order"

    run(work())


# --- small files -------------------------------------------------------------------------------


def test_small_files_come_by_name_and_never_above_their_limit() -> None:
    async def work() -> None:
        async with site(Fake()) as made:
            assert await made.get("/v1/metadata/timestamp.json") == b"signed"
            assert await made.get(f"/v1/targets/releases/tool/{MANIFEST}.1.0") == b"manifest"
            assert json.loads(await made.get("/v1/status"))["id"] == id_of(AGENT_SEED)
            scrape = await made.get("/v1/metrics")
            assert b'firedoor_bytes{kind="peer"} 5.0' in scrape
            assert b'firedoor_refused{reason="untrusted"} 2.0' in scrape
            assert b"firedoor_covered_bytes 7.0" in scrape
            with pytest.raises(TooLarge):
                await made.get("/v1/metadata/timestamp.json", limit=5)
            for missing in ("metadata/other.json", "targets/releases/tool/00.1.0", "nothing"):
                with pytest.raises(Unavailable):
                    await made.get(f"/v1/{missing}")

    run(work())


def test_extra_routes_answer_posts_with_our_errors() -> None:
    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        if not body:
            raise Malformed("body", wanted="bytes", got="none")
        return web.Response(body=body[::-1] + request.headers["X-Piece"].encode())

    async def work() -> None:
        routes = [web.post("/v1/extra", take)]
        app = build_app(
            Fake(), transfers=Transfers(), budget=Budget(0), clock=Clock(), extra_routes=routes
        )
        server = await serve(app, "127.0.0.1:0", server_context_of(MIRROR))
        client = PeerClient(AGENT, StillClock(), Budget(0))
        post, at = client.post, ("127.0.0.1", server.port, "/v1/extra")
        try:
            assert await post(*at, b"ab", limit=9, headers={"X-Piece": "!"}) == b"ba!"
            with pytest.raises(Denied, match="wanted bytes"):
                await post(*at, b"", limit=9)
        finally:
            await client.close()
            await server.close()

    run(work())


def test_nobody_at_an_address_is_unavailable() -> None:
    async def work() -> None:
        async with site(Fake()) as made:
            with pytest.raises(Unavailable, match="listening"):
                await serve(web.Application(), f"127.0.0.1:{made.port}", server_context_of(MIRROR))
            port = made.port
        client = PeerClient(AGENT, StillClock(), Budget(0))
        try:
            with pytest.raises(Unavailable):
                await client.dial("127.0.0.1", port, role=Role.MIRROR)
        finally:
            await client.close()

    run(work())


# --- conversations -----------------------------------------------------------------------------


@LOOPS
def test_frames_go_both_ways_in_order_and_either_side_may_end(loop: Callable[[], Any]) -> None:
    async def work() -> None:
        async with site(Fake()) as made:
            peer, talk = await made.dial()
            assert peer == Peer(id_of(MIRROR_SEED), Role.MIRROR, "branch")
            for number in range(50):
                assert talk.send(b"%d" % number)
            heard = []
            async for frame in talk.frames():
                heard.append(frame)
                if len(heard) == 50:
                    talk.close()
                    assert not talk.send(b"late")
            assert heard == [b"echo %d" % number for number in range(50)]

    run(work(), loop)


def test_a_conversation_that_is_closed_unheard_leaves_no_connection() -> None:
    ended: list[bool] = []

    async def talk_to_the_end(talk: Conversation) -> None:
        async for _ in talk.frames():
            pass
        ended.append(True)

    async def work() -> None:
        async with site(Fake(talk=talk_to_the_end)) as made:
            _, talk = await made.dial()
            talk.close()
            async with asyncio.timeout(3.0):
                await until(lambda: bool(ended))

    run(work())


def test_a_conversation_whose_connection_is_lost_ends() -> None:
    async def break_off(talk: Conversation) -> None:
        transport = talk._socket.get_extra_info("socket")
        transport.shutdown(socket.SHUT_RDWR)
        async for _ in talk.frames():
            pass

    async def work() -> None:
        async with site(Fake(talk=break_off)) as made:
            _, talk = await made.dial()
            assert [frame async for frame in talk.frames()] == []
            assert not talk.send(b"late")

    run(work())


def test_what_was_sent_before_a_close_still_arrives() -> None:
    async def say_and_close(talk: Conversation) -> None:
        talk.send(b"last words")
        talk.close()
        async for _ in talk.frames():
            pass

    async def work() -> None:
        async with site(Fake(talk=say_and_close)) as made:
            _, talk = await made.dial()
            assert [frame async for frame in talk.frames()] == [b"last words"]

    run(work())


def test_a_peer_that_takes_no_frames_is_dropped_when_its_outbox_is_full() -> None:
    async def work() -> None:
        async with site(Fake()) as made:
            _, talk = await made.dial()
            sent = [talk.send(bytes(100)) for _ in range(OUTBOX_FRAMES_MAX + 1)]
            assert sent.index(False) == OUTBOX_FRAMES_MAX
            assert not talk.send(b"more")

    run(work())


@pytest.mark.parametrize("frame", ["text", bytes(512 * 1024 + 1)])
def test_text_or_a_frame_above_the_limit_ends_a_conversation(frame: str | bytes) -> None:
    async def break_rules(talk: Conversation) -> None:
        if isinstance(frame, str):
            await talk._socket.send_str(frame)
        else:
            await talk._socket.send_bytes(frame)
        async for _ in talk.frames():
            pass

    async def work() -> None:
        async with site(Fake(talk=break_rules)) as made:
            _, talk = await made.dial()
            assert [frame async for frame in talk.frames()] == []

    run(work())
