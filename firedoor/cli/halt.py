"""`firedoor halt`: sign one order and hand it to any peer. At 4 a.m., with one key file."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from firedoor.cli.common import first_status, open_key, peers_to_try, say, with_client
from firedoor.cli.handing import check_wait, hand_over
from firedoor.errors import FiredoorError, Malformed
from firedoor.halt.envelope import seal
from firedoor.halt.order import LEVEL_MAX, HaltPayload, check_halt
from firedoor.halt.scope import Scope, ScopeKind, Subject, parse_scope
from firedoor.identity import FleetId
from firedoor.runtime.clocks import Clock
from firedoor.runtime.key_files import KeyFile
from firedoor.runtime.peer_client import PeerClient

# After the order is out: what it may cost to learn whether it covers anything.
_RESOLVE_S = 3.0

# How long to listen for mirrors when no peer is named.
_FIND_S = 2.0


@dataclass(frozen=True, slots=True)
class Stop:
    """What `halt` was asked for."""

    scope: str
    level: int
    reason: str


def halt_scope(
    stop: Stop, key_file: tuple[Path, Path | None], *, to: list[str], wait_s: float
) -> None:
    """Sign the halt, hand it over, say how far it has come.

    Raises:
        Malformed: a scope or level that cannot be; nothing is signed then.
        Unavailable: no peer recorded it.
    """
    scope = parse_scope(stop.scope)
    if not 1 <= stop.level <= LEVEL_MAX:
        raise Malformed("level", wanted=f"1 to {LEVEL_MAX}", got=str(stop.level))
    check_halt(scope, stop.level)
    check_wait(wait_s)
    key = open_key(*key_file)
    if key.role != "halt":
        raise Malformed(str(key_file[0]), wanted="a key of role halt", got=key.role)

    async def work(client: PeerClient) -> None:
        addresses = await peers_to_try(key, to, _FIND_S)
        order = _sign(key, stop)
        say(f"signed {order[0].hex()}: {stop.scope} at level {stop.level}")
        await hand_over(client, addresses, order, wait_s)
        await _warn_of_nothing(client, addresses, scope)

    with_client(key, work)


async def _warn_of_nothing(
    client: PeerClient, addresses: list[tuple[str, int]], scope: Scope
) -> None:
    """Say it when the order covers no release that is known: a slip of the finger stops nothing."""
    with suppress(FiredoorError, TimeoutError, KeyError, TypeError, ValueError):
        async with asyncio.timeout(_RESOLVE_S):
            status = await first_status(client, addresses)
            subjects = [
                Subject(row["product"], row["version"], bytes.fromhex(row["content"]))
                for row in status["releases"]
            ]
            is_named = scope.kind in {ScopeKind.RELEASE, ScopeKind.PRODUCT}
            if is_named and not any(scope.covers(each, (), "") for each in subjects):
                say(f"WARNING: no release is known there that {scope.text} covers; is it spelt so?")


def _sign(key: KeyFile, stop: Stop) -> tuple[bytes, bytes]:
    # No content digests: nodes resolve them from signed metadata, and what a peer says they are
    # could make an operator halt another release than the one that was typed.
    payload = HaltPayload(
        version=1,
        nonce=os.urandom(16),
        scope=stop.scope,
        level=stop.level,
        issued_at=Clock().unix(),
        reason=stop.reason,
    )
    return seal("halt", payload, fleet=FleetId(key.fleet), keys={key.keyid: key.signing_seed})
