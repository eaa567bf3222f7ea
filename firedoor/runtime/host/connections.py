"""The standing connections of one host: who talks on which, who beats, who is dead.

Of two connections between a pair the one dialled by the smaller id stays. A banned machine, and
whoever comes before this node has keys to check orders with, is told so or closed.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from firedoor.errors import Refused, Unavailable, Untrusted
from firedoor.identity import Peer, PeerId, Role
from firedoor.limits import (
    FRAMES_AT_ONCE,
    FRAMES_OF_MIRROR,
    FRAMES_PER_S,
    INTAKE_BYTES_PER_S,
    INTAKE_BYTES_PER_S_OF_MIRROR,
)
from firedoor.runtime.host.contract import Driver
from firedoor.runtime.logs import log
from firedoor.runtime.network.conversation import Conversation
from firedoor.runtime.network.heartbeat import (
    MIRROR_BEAT,
    STOOD_STILL,
    Pulse,
    bound_silence,
    pulse_of,
)
from firedoor.runtime.network.pacing import Budget, Turns
from firedoor.runtime.network.peer_client import CONNECT_S, PeerClient
from firedoor.units import Span
from firedoor.wire.messages import (
    Announce,
    Beat,
    Health,
    OrderRefused,
    Receipts,
    Recorded,
    Roster,
    RosterChange,
    decode_message,
)
from firedoor.wire.versions import Skipped

# One object, so that it is put into bytes once for all peers.
BEAT = Beat()

# What the program beside the node hears of, too.
FOR_PROGRAMS = (Announce, Health, Receipts, Recorded, Roster, RosterChange)

# What is many and can wait: it leaves after all else, and is read no faster than is due.
BULK = (Health, Receipts)

# Of a connection that the other side has dialled nobody knows how long it took.
NO_TIME = Span(0.0)


@dataclass(slots=True)
class Connection:
    """One standing connection. `dialler`: who opened it."""

    peer: Peer
    socket: Conversation
    dialler: PeerId
    host: str
    port: int
    is_upstream: bool
    pulse: Pulse
    intake: Budget


class Connections:
    """The connections of one host, by peer."""

    def __init__(self, driver: Driver, client: PeerClient) -> None:
        self._driver = driver
        self._client = client
        self._operators = 0
        self.open: dict[PeerId, Connection] = {}
        self.skipped = Skipped()
        self.is_shown: Callable[[PeerId], bool] = lambda _: False

    async def converse(
        self,
        peer: Peer,
        *,
        host: str,
        port: int,
        socket: Conversation,
        is_mine: bool,
        is_upstream: bool = False,
        round_trip: Span = NO_TIME,
    ) -> None:
        """Talk with `peer` until either side closes.

        `is_mine`: this node dialled, in `round_trip`; `is_upstream`: it is a mirror that settings
        name as such.
        """
        if peer.role is Role.OPERATOR:
            # Two commands with one key are two conversations, and neither may end the other.
            self._operators += 1
            peer = replace(peer, id=PeerId(f"{peer.id}.{self._operators}"))
        dialler = self._driver.settings.me if is_mine else peer.id
        if self._driver.node.refuses(peer.id):
            log("banned-peer-refused", level="warning", peer=peer.id)
            socket.close()
            return
        if peer.id == self._driver.settings.me or not self._driver.trusted.is_set():
            why = "it has read no signed metadata yet, so it can check no order; try another peer"
            if peer.role is Role.OPERATOR:
                socket.say(OrderRefused(why))
            socket.close()
            return
        old = self.open.get(peer.id)
        if old is not None and old.dialler != dialler and old.dialler < dialler:
            socket.close()  # Of two between a pair, the one dialled by the smaller id stays.
            return
        role, now = self._driver.settings.role, self._driver.clock.now
        is_source = is_upstream or self._is_source(peer, is_mine=is_mine)
        pulse = pulse_of(role, peer.role, now(), is_mine=is_mine, round_trip=round_trip)
        bound_silence(socket)
        connection = Connection(
            peer, socket, dialler, host, port, is_source, pulse, intake_of(peer.role)
        )
        self.open[peer.id] = connection
        if old is not None:
            old.socket.close()
        node = self._driver.node
        self._driver.apply(node.connected(peer, host=host, is_upstream=is_source, now=now()))
        try:
            await self._listen(connection)
        finally:
            socket.close()
            if self.open.get(peer.id) is connection:
                del self.open[peer.id]
                self._driver.apply(node.disconnected(peer.id, now()))
                self._driver.program.on_gone(peer.id)

    def _is_source(self, peer: Peer, *, is_mine: bool) -> bool:
        """Whether an endpoint takes this mirror as one that gives to it.

        Anybody with a mirror's certificate, of whatever site, can dial an endpoint; one that this
        endpoint has dialled, that its LAN shows, or that is of its own site is meant.
        """
        settings = self._driver.settings
        if (settings.role, peer.role) != (Role.AGENT, Role.MIRROR):
            return False
        return is_mine or peer.site == settings.site or self.is_shown(peer.id)

    async def _listen(self, connection: Connection) -> None:
        # A mirror brings whole sets of orders, and speaks for a site.
        share = FRAMES_OF_MIRROR if connection.peer.role is Role.MIRROR else 1
        turns = Turns(share * FRAMES_PER_S, share * FRAMES_AT_ONCE, self._driver.clock)
        async for frame in connection.socket.frames():
            await turns.take(len(frame))
            if self.open.get(connection.peer.id) is not connection:
                return
            connection.pulse.heard_at = self._driver.clock.now()
            try:
                message = decode_message(frame, self.skipped)
                if message is None:
                    continue
                self._driver.apply(
                    self._driver.node.receive(message, connection.peer.id, self._driver.clock.now())
                )
                if isinstance(message, FOR_PROGRAMS):
                    self._driver.program.on_message(message, connection.peer.id)
                if isinstance(message, BULK):
                    # Nothing more is read meanwhile, so the sender's own queue fills up.
                    await connection.intake.take(len(frame))
                    connection.pulse.heard_at = self._driver.clock.now()
            except (Refused, Unavailable) as error:
                self._driver.drop(connection.peer.id, str(error))
                return

    async def dial(
        self,
        host: str,
        port: int,
        role: Role,
        *,
        is_upstream: bool = False,
        on_open: Callable[[Peer], bool] = lambda _: True,
        span_s: float = CONNECT_S,
    ) -> None:
        """Open a standing connection within `span_s` and talk on it until it ends.

        `on_open`: told who has proved to listen there, whether to talk at all.

        Raises:
            Unavailable, Refused: it could not be opened.
        """
        began = self._driver.clock.now()
        peer, socket = await self._client.dial(host, port, role=role, span_s=span_s)
        # The handshakes of TCP, TLS and WebSocket take three.
        round_trip = Span((self._driver.clock.now() - began) / 3)
        if peer.role is not role:
            socket.close()
            raise Untrusted(f"{host}:{port}", wanted=f"role {role.value}", got=peer.role.value)
        if not on_open(peer):
            socket.close()
            return
        await self.converse(
            peer,
            host=host,
            port=port,
            socket=socket,
            is_mine=True,
            is_upstream=is_upstream,
            round_trip=round_trip,
        )

    def address_of(self, peer: PeerId) -> tuple[str, int]:
        """Where `peer` listens.

        Raises:
            Unavailable: it is not connected or has not said.
        """
        connection = self.open.get(peer)
        session = next((one for one in self._driver.node.sessions if one.peer.id == peer), None)
        port = (
            connection.port if connection and connection.port else (session.port if session else 0)
        )
        if connection is None or not port:
            raise Unavailable(f"peer {peer[:12]}", why="not connected")
        return connection.host, port

    def listening(self) -> set[tuple[str, int]]:
        """Where the peers listen that are connected, whoever dialled; port 0: it has not said."""
        ports = {one.peer.id: one.port for one in self._driver.node.sessions}
        return {(each.host, each.port or ports.get(each.peer.id, 0)) for each in self.open.values()}

    def mirrors(self) -> list[tuple[str, int, PeerId]]:
        """Where the mirrors listen that are connected and give to this node: host, port, id."""
        found = []
        for connection in self.open.values():
            # One that has dialled us and not said yet where it listens can be asked later.
            with suppress(Unavailable):
                if connection.is_upstream:
                    found.append((*self.address_of(connection.peer.id), connection.peer.id))
        return found

    async def keep_beating(self) -> None:
        """Beat where this side does, and drop who is silent, for ever."""
        looked_at = self._driver.clock.now()
        while True:
            await asyncio.sleep(MIRROR_BEAT)
            now = self._driver.clock.now()
            stood_still = now - looked_at > MIRROR_BEAT + STOOD_STILL
            looked_at = now
            for connection in [*self.open.values()]:
                if stood_still:
                    connection.pulse.heard_at = now
                elif connection.pulse.is_dead(now):
                    self._driver.drop(connection.peer.id, "it has been silent for too long")
                if connection.pulse.is_due(now):
                    self._driver.send(connection.peer.id, BEAT)


def intake_of(role: Role) -> Budget:
    """How fast reports and receipts are read from a peer of this role."""
    return Budget(INTAKE_BYTES_PER_S_OF_MIRROR if role is Role.MIRROR else INTAKE_BYTES_PER_S)
