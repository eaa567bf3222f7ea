"""The ports of a site: each sends one piece at a time, in turn for each request that it serves.

It moves no bytes, only their time; messages are not on it, for they are small.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from firedoor.identity import PeerId
from firedoor.units import Span
from simulator.clockwork import Clockwork

# Half a round trip on a switched LAN with a busy host at each end.
LATENCY = Span(0.001)


@dataclass(slots=True)
class Transfer:
    """One request at the peer that serves it. `pieces`: not yet sent; `due`: not yet arrived."""

    number: int
    client: PeerId
    pieces: deque[int]
    due: int


@dataclass(slots=True)
class Port:
    """What one machine sends. `sent`: bytes."""

    queue: deque[Transfer] = field(default_factory=deque)
    is_busy: bool = False
    sent: int = 0


class Network:
    """The ports of a site. `arrive` is called for each piece that reached its client."""

    __slots__ = ("_arrive", "_clockwork", "_ports", "_rate", "_sizes")

    def __init__(
        self,
        clockwork: Clockwork,
        arrive: Callable[[PeerId, Transfer, int], None],
        *,
        sizes: Sequence[int],
        rate: float,
    ) -> None:
        self._clockwork = clockwork
        self._arrive = arrive
        self._sizes = sizes
        self._rate = rate
        self._ports: dict[PeerId, Port] = {}

    def open(self, peer: PeerId) -> None:
        """A machine is there."""
        self._ports[peer] = Port()

    def close(self, peer: PeerId) -> list[Transfer]:
        """A machine is gone; the transfers that break."""
        return [*self._ports.pop(peer).queue]

    def sent(self, peer: PeerId) -> int:
        """How many bytes it has sent."""
        return self._ports[peer].sent

    def serve(self, server: PeerId, transfer: Transfer) -> bool:
        """Begin to send; False if the server is gone."""
        if server not in self._ports:
            return False
        self._ports[server].queue.append(transfer)
        self._send(server)
        return True

    def withdraw(self, server: PeerId, client: PeerId, number: int) -> None:
        """The client has hung up."""
        port = self._ports.get(server)
        if port is not None:
            kept = [one for one in port.queue if (one.client, one.number) != (client, number)]
            port.queue = deque(kept)

    def _send(self, server: PeerId) -> None:
        port = self._ports.get(server)
        if port is None or port.is_busy or not port.queue:
            return
        transfer = port.queue.popleft()
        piece = transfer.pieces.popleft()
        if transfer.pieces:
            port.queue.append(transfer)
        port.is_busy = True
        port.sent += self._sizes[piece]
        span = Span(self._sizes[piece] / self._rate)
        self._clockwork.later(span, self._is_sent, server, transfer, piece)

    def _is_sent(self, server: PeerId, transfer: Transfer, piece: int) -> None:
        port = self._ports.get(server)
        if port is not None:
            self._clockwork.later(LATENCY, self._arrive, server, transfer, piece)
            port.is_busy = False
            self._send(server)
