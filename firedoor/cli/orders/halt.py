"""`firedoor halt`: sign one order and hand it to any peer. At 4 a.m., with one key file."""

import asyncio
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from firedoor.cli.client.answers import say
from firedoor.cli.client.key_opening import open_key
from firedoor.cli.client.order_delivery import check_wait, hand_over
from firedoor.cli.client.peer_search import peers_as_found
from firedoor.cli.client.requests import first_status, with_client
from firedoor.errors import FiredoorError, Malformed
from firedoor.halt.brake import SIGNERS_NARROW
from firedoor.halt.envelope import CONTROLLER_HALT, seal
from firedoor.halt.order import LEVEL_MAX, LEVEL_NARROW, HaltPayload, check_halt
from firedoor.halt.scope import Scope, ScopeKind, parse_scope
from firedoor.identity import FleetId, Place
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import CONTROLLER, KeyFile
from firedoor.runtime.network.peer_client import PeerClient

# After the order is out: what it may cost to learn whether it covers anything.
_RESOLVE_S = 3.0

# Releases for which one key was too few, one a line.
_LOWERED_SHOWN = 5

# How long to listen for mirrors when no peer is named.


@dataclass(frozen=True, slots=True)
class HaltRequest:
    """What `halt` or `drill` was asked for. `confirmed`: the scope, typed once more."""

    scope: str
    level: int
    reason: str
    is_drill: bool = False
    confirmed: str = ""


def halt_scope(
    stop: HaltRequest, key_files: tuple[list[Path], Path | None], *, to: list[str], wait_s: float
) -> None:
    """Sign the halt, hand it over, say how far it has come.

    Raises:
        Malformed: a scope or level that cannot be, or a wide one that was not confirmed; nothing is
            signed then.
        Unavailable: no peer recorded it.
    """
    scope = parse_scope(stop.scope)
    if not 1 <= stop.level <= LEVEL_MAX:
        raise Malformed("level", wanted=f"1 to {LEVEL_MAX}", got=str(stop.level))
    check_halt(scope, stop.level)
    check_wait(wait_s)
    if scope.kind is ScopeKind.EVERYTHING and not stop.is_drill:
        _confirm(stop)
    keys = [open_key(path, key_files[1]) for path in key_files[0]]
    for key in keys:
        if key.role == CONTROLLER:
            _check_controller(stop, scope, len(keys))
        elif key.role != "halt":
            raise Malformed(key.name, wanted="a key of role halt", got=key.role)

    async def work(client: PeerClient) -> None:
        order = _sign(keys, stop)
        word = "drill, " if stop.is_drill else ""
        say(f"signed {order[0].hex()}: {word}{stop.scope} at level {stop.level}")
        is_controllers = keys[0].role == CONTROLLER
        # What a crowd of the LAN hides is looked for all the while; the origin has it meanwhile.
        peers = peers_as_found(client, keys[0], to, wait_s)
        addresses = await hand_over(
            client, peers, order, wait_s, until_committed=not is_controllers
        )
        is_narrow = stop.level >= LEVEL_NARROW and not stop.is_drill
        is_by_one = is_narrow and len(keys) < SIGNERS_NARROW
        await _say_what_it_covers(client, addresses, scope, level=stop.level if is_by_one else 0)

    with_client(keys[0], work)


def _check_controller(stop: HaltRequest, scope: Scope, keys: int) -> None:
    """Whether a controller's key can sign this; peers refuse whatever it cannot."""
    if keys > 1:
        raise Malformed("--key", wanted="a controller's alone", got=f"{keys} keys")
    if scope.kind is not ScopeKind.RELEASE or stop.is_drill:
        got = "a drill" if stop.is_drill else f"a {scope.kind.value}"
        raise Malformed("scope", wanted="a halt of PRODUCT==VERSION, by a controller", got=got)


def _confirm(stop: HaltRequest) -> None:
    """Ask for the scope once more: this one stops a whole fleet."""
    typed = stop.confirmed
    if not typed and sys.stdin.isatty():
        typed = input("this stops EVERY product on EVERY machine; type everything to go on: ")
    if typed.strip() != stop.scope:
        wanted = "the word everything, typed, or --confirm everything"
        raise Malformed("confirmation", wanted=wanted, got=repr(typed[:80]))


async def _say_what_it_covers(
    client: PeerClient, addresses: list[tuple[str, int]], scope: Scope, *, level: int
) -> None:
    """Say it when the order covers no release that is known: a slip of the finger stops nothing.

    `level`: signed by one key, above 4; say for which releases that is too few. 0: not so.
    """
    with suppress(FiredoorError, TimeoutError):
        async with asyncio.timeout(_RESOLVE_S):
            releases = (await first_status(client, addresses)).status.releases
        covered = [row for row in releases if scope.covers(row.subject, (), Place())]
        if scope.kind in {ScopeKind.RELEASE, ScopeKind.PRODUCT} and not covered:
            say(f"WARNING: no release is known there that {scope.text} covers; is it spelt so?")
        lowered = [row for row in covered if level and row.level_lowered >= level]
        for row in lowered[:_LOWERED_SHOWN]:
            name = f"{row.subject.product} {row.subject.version}"
            say(f"one key is too few for {name}: level {row.level} there, a newer release differs")
        if len(lowered) > _LOWERED_SHOWN:
            say(f"  and for {len(lowered) - _LOWERED_SHOWN} more; a second --key reaches them")


def _sign(keys: list[KeyFile], stop: HaltRequest) -> tuple[bytes, bytes]:
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
    kind = CONTROLLER_HALT if keys[0].role == CONTROLLER else "drill" if stop.is_drill else "halt"
    seeds = {key.keyid: key.signing_seed for key in keys}
    return seal(kind, payload, fleet=FleetId(keys[0].fleet), keys=seeds)
