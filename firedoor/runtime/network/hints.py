"""Where peers may listen, say mDNS and rosters, and where they have been proved to listen.

* A hint is an address and a role. Anybody on the LAN can name any peer at any address, so who
  listens there is what TLS proves, and nothing else is believed: no good-bye, no change of address.
* Hints from mDNS are bounded for each host that they name; where there is no more room the host
  with the most of them gives one up, tried ones first.
* An address where a peer proved itself is kept in a file, and comes first at the next start.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from firedoor.dice import Dice
from firedoor.errors import FiredoorError
from firedoor.identity import PEER_ID, PeerId, Role
from firedoor.limits import HINTS_MAX, HINTS_OF_HOST_MAX, PROVED_MAX, PROVED_OF_PEER_MAX
from firedoor.runtime.folders import read_regular
from firedoor.runtime.logs import log
from firedoor.runtime.network.peer_client import CONNECT_S
from firedoor.units import Instant

# A hundred addresses of 150 bytes each.
_FILE_BYTES_MAX = 1 << 16

# Of those that a roster has named, so many of the oldest may give way.
_LOOKED_AT_MAX = 64

_HOST_LETTERS_MAX = 255
_PORT_MAX = 65_535

# How long a stranger has at first: a handshake on a LAN takes milliseconds. A busy machine, which
# takes a second, is found at the second or third time.
STRANGER_S = 0.5

# Before anything that happens.
NEVER = Instant(0.0)


@dataclass(slots=True, eq=False)
class Hint:
    """One address. `claimed`: who listens there, says a hint; `proved`: who did, by TLS.

    `is_told`: a mirror's roster names it. `failures`: dials since one held.
    """

    host: str
    port: int
    role: Role
    claimed: PeerId
    is_told: bool = False
    proved: PeerId | None = None
    failures: int = 0
    tried_at: Instant | None = None
    not_before: Instant = NEVER
    is_dialling: bool = False

    @property
    def is_stranger(self) -> bool:
        """Whether nothing but a datagram speaks for it."""
        return self.proved is None and not self.is_told

    @property
    def span_s(self) -> float:
        """How long it has to prove itself: a stranger of this LAN little, and more each time."""
        longer = STRANGER_S * 2 ** min(self.failures, 8)
        return min(CONNECT_S, longer) if self.is_stranger else CONNECT_S


class Hints:
    """All addresses that one node knows of, in the order in which they came."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._known: dict[tuple[str, int, Role], Hint] = {}
        # Those that are not proved, by what bounds them, so that one more costs the same however
        # many there are.
        self._told: dict[tuple[str, int, Role], Hint] = {}
        self._strangers: dict[str, dict[tuple[str, int, Role], Hint]] = {}
        self._stranger_count = 0

    def __iter__(self) -> Iterator[Hint]:
        return iter([*self._known.values()])

    def of(self, peer: PeerId) -> list[Hint]:
        """Where this peer was proved, or is claimed, to listen."""
        return [each for each in self._known.values() if peer in (each.proved, each.claimed)]

    def add(self, peer: PeerId, address: tuple[str, int], role: Role, *, is_told: bool) -> Hint:
        """The hint of an address, new or known."""
        key = (*address, role)
        known = self._known.get(key)
        if known is None:
            known = Hint(*address, role, peer, is_told)
            self._hold(known)
            self._make_room(known)
        elif is_told and not known.is_told:
            self.drop(known)
            known.is_told = True
            self._hold(known)
            self._make_room(known)
        known.claimed = peer
        return known

    def _hold(self, hint: Hint) -> None:
        key = (hint.host, hint.port, hint.role)
        self._known[key] = hint
        if hint.proved is not None:
            return  # Bounded by PROVED_MAX.
        if hint.is_told:
            self._told[key] = hint
        else:
            self._strangers.setdefault(hint.host, {})[key] = hint
            self._stranger_count += 1

    def drop(self, hint: Hint) -> None:
        """This address is of no use."""
        key = (hint.host, hint.port, hint.role)
        self._known.pop(key, None)
        self._told.pop(key, None)
        there = self._strangers.get(hint.host, {})
        if there.pop(key, None) is not None:
            self._stranger_count -= 1
        if not there:
            self._strangers.pop(hint.host, None)

    def prove(self, hint: Hint, peer: PeerId) -> bool:
        """`peer` has proved that it listens there; whether that is news."""
        is_news = hint.proved != peer
        # The latest last: the oldest are given up first.
        self.drop(hint)
        hint.proved = peer
        self._hold(hint)
        proved = [each for each in self._known.values() if each.proved is not None]
        of_peer = [each for each in proved if each.proved == peer]
        excess = [*of_peer[:-PROVED_OF_PEER_MAX], *proved[:-PROVED_MAX]]
        for each in excess:
            self.drop(each)
            each.proved = None
            self._hold(each)
            self._make_room(each)
        return is_news

    def in_turn(self, role: Role, is_wanted: Callable[[Hint], bool]) -> list[Hint]:
        """Those of a role: proved, then never dialled (by lot), then the least lately.

        Of those never dialled each host has one turn before any has its second.
        """
        able = [each for each in self._known.values() if each.role is role and is_wanted(each)]
        if not able:
            return []
        lots = {id(each): self._dice.fraction() for each in able}
        able.sort(key=lambda each: lots[id(each)])
        turns = Counter(
            each.host
            for each in self._known.values()
            if each.proved is None and each.tried_at is not None
        )
        ranks: dict[int, float] = {}
        for each in able:
            if each.tried_at is None:
                ranks[id(each)] = turns[each.host]
                turns[each.host] += 1
        return sorted(
            able,
            key=lambda each: (
                each.proved is None,
                each.tried_at is not None,
                each.tried_at or ranks.get(id(each), 0),
            ),
        )

    def _make_room(self, new: Hint) -> None:
        """Forget one where the new one is one too many; never one that has proved itself."""
        if new.proved is not None:
            return
        if new.is_told:
            if len(self._told) > HINTS_MAX:
                oldest = islice(self._told.values(), _LOOKED_AT_MAX)
                self._give_up([each for each in oldest if each is not new])
            return
        there = self._strangers[new.host]
        if len(there) > HINTS_OF_HOST_MAX:
            self._give_up([each for each in there.values() if each is not new])
        elif self._stranger_count > HINTS_MAX:
            # Each host has one lot, however many ports it has announced.
            hosts = [host for host in self._strangers if host != new.host or len(there) > 1]
            host = self._dice.pick(hosts)
            self._give_up([each for each in self._strangers[host].values() if each is not new])

    def _give_up(self, able: list[Hint]) -> None:
        free = [each for each in able if not each.is_dialling and each.proved is None]
        tried = [each for each in free if each.tried_at is not None]
        # Of those that nobody has tried any may be the real one: not even the oldest is foreseen.
        if tried or free:
            self.drop(tried[0] if tried else self._dice.pick(free))

    # --- the file ------------------------------------------------------------------------------

    def load(self, path: Path) -> None:
        """Remember what an earlier run has proved; what is damaged is left out, and said."""
        try:
            table = json.loads(read_regular(path, _FILE_BYTES_MAX))
            rows = [_row(each) for each in table["proved"][-PROVED_MAX:]]
        except FileNotFoundError:
            return
        except (FiredoorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log("neighbours-unreadable", level="warning", path=str(path), why=str(error))
            return
        for host, port, role, peer in rows:
            self.prove(self.add(peer, (host, port), role, is_told=False), peer)

    def kept(self) -> bytes:
        """What is proved, for the file that `load` reads."""
        rows = [
            {"host": each.host, "port": each.port, "role": each.role.value, "peer": each.proved}
            for each in self._known.values()
            if each.proved is not None
        ]
        return json.dumps({"proved": rows}, indent=1).encode()


def _row(row: dict[str, object]) -> tuple[str, int, Role, PeerId]:
    host, port, peer = row["host"], row["port"], row["peer"]
    if not isinstance(host, str) or len(host) > _HOST_LETTERS_MAX:
        raise ValueError("a host that is none")
    if not isinstance(port, int) or not 0 < port <= _PORT_MAX:
        raise ValueError("a port that is none")
    if not isinstance(peer, str) or PEER_ID.fullmatch(peer) is None:
        raise ValueError("a peer that is none")
    return host, port, Role(row["role"]), PeerId(peer)
