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
from pathlib import Path

from firedoor.dice import Dice
from firedoor.errors import FiredoorError
from firedoor.identity import PEER_ID, PeerId, Role
from firedoor.limits import HINTS_MAX, HINTS_OF_HOST_MAX, PROVED_MAX, PROVED_OF_PEER_MAX
from firedoor.runtime.folders import read_regular
from firedoor.runtime.logs import log
from firedoor.units import Instant

# A hundred addresses of 150 bytes each.
_FILE_BYTES_MAX = 1 << 16

_HOST_LETTERS_MAX = 255
_PORT_MAX = 65_535

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


class Hints:
    """All addresses that one node knows of, in the order in which they came."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._known: dict[tuple[str, int, Role], Hint] = {}

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
            known = self._known[key] = Hint(*address, role, peer, is_told)
            self._make_room(known)
        known.claimed = peer
        known.is_told |= is_told
        return known

    def drop(self, hint: Hint) -> None:
        """This address is of no use."""
        self._known.pop((hint.host, hint.port, hint.role), None)

    def prove(self, hint: Hint, peer: PeerId) -> bool:
        """`peer` has proved that it listens there; whether that is news."""
        is_news = hint.proved != peer
        hint.proved = peer
        # The latest last: the oldest are given up first.
        self.drop(hint)
        self._known[(hint.host, hint.port, hint.role)] = hint
        proved = [each for each in self._known.values() if each.proved is not None]
        of_peer = [each for each in proved if each.proved == peer]
        excess = [*of_peer[:-PROVED_OF_PEER_MAX], *proved[:-PROVED_MAX]]
        for each in excess:
            each.proved = None
        return is_news

    def in_turn(self, role: Role, is_wanted: Callable[[Hint], bool]) -> list[Hint]:
        """Those of a role: proved, then never dialled (in any order), then the least lately."""
        able = [each for each in self._known.values() if each.role is role and is_wanted(each)]
        dice = {id(each): self._dice.fraction() for each in able}
        return sorted(
            able,
            key=lambda each: (
                each.proved is None,
                each.tried_at is not None,
                each.tried_at or dice[id(each)],
            ),
        )

    def _make_room(self, new: Hint) -> None:
        """Forget one where the new one is one too many."""
        able = [each for each in self._known.values() if not each.is_dialling and each is not new]
        told = [each for each in able if each.is_told]
        if new.is_told:
            if len(told) >= HINTS_MAX:
                self.drop(told[0])
            return
        strangers = [each for each in able if each.is_stranger]
        hosts = Counter(each.host for each in strangers)
        if hosts[new.host] >= HINTS_OF_HOST_MAX:
            crowded = new.host
        elif len(strangers) >= HINTS_MAX:
            crowded = hosts.most_common(1)[0][0]
        else:
            return
        there = [each for each in strangers if each.host == crowded]
        tried = [each for each in there if each.tried_at is not None]
        # Of those that nobody has tried any may be the real one: not even the oldest is foreseen.
        self.drop(tried[0] if tried else there[self._dice.below(len(there))])

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
