"""`firedoor resume`, `revoke`, `ban` and `critical-fix`: the orders that take several people."""

import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from firedoor.cli.client.evidence import Evidence
from firedoor.cli.client.key_opening import open_key
from firedoor.cli.client.origin import Origin, origin_of, verified
from firedoor.cli.orders.cosigning import Draft, SigningSession, cosign
from firedoor.errors import Malformed, Unavailable
from firedoor.halt.order import BanPayload, PassPayload, ResumePayload, RevokePayload
from firedoor.halt.scope import ScopeKind, parse_scope
from firedoor.identity import PEER_ID, FleetId
from firedoor.limits import ORDER_BYTES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.terminal import plain
from firedoor.wire.codec import decode

_ID = re.compile(r"[0-9a-f]{1,64}")
_WHOLE = 64

Make = Callable[[PeerClient, Evidence], Awaitable[object]]
Show = Callable[[bytes, Evidence], Awaitable[list[str]]]

# What a resume can lift.
_LIFTED = frozenset({"halt", "controller-halt", "drill", "ban", "pass"})


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What was asked for, and how it is handed over."""

    what: tuple[str, ...]
    reason: str
    to: tuple[str, ...]
    wait_s: float


def lift_halts(asked: OrderRequest, gathering: SigningSession) -> None:
    """Make or complete a resume; raises as `cosign`."""

    async def make(_: PeerClient, evidence: Evidence) -> object:
        ids = await _orders(evidence, asked.what, _LIFTED)
        return ResumePayload(1, os.urandom(16), ids, Clock().unix(), asked.reason)

    async def show(body: bytes, evidence: Evidence) -> list[str]:
        payload = decode(ResumePayload, body, what="resume", limit=ORDER_BYTES_MAX)
        return [*await evidence.lines(payload.halts, "lifts"), _why(payload.reason)]

    _together("resume", make, show, asked, gathering)


def revoke_key(asked: OrderRequest, survivors: tuple[str, ...], gathering: SigningSession) -> None:
    """Make or complete the revocation of the key `asked.what`; raises as `cosign`."""

    async def make(_: PeerClient, evidence: Evidence) -> object:
        [keyid] = asked.what
        if _ID.fullmatch(keyid) is None or len(keyid) != _WHOLE:
            wanted = "its whole id of 64 hex digits, as its key file has it"
            raise Malformed("key", wanted=wanted, got=repr(keyid[:80]))
        kinds = _LIFTED | {"resume", "revoke"}
        ids = await _orders(evidence, survivors, kinds) if survivors else ()
        return RevokePayload(1, os.urandom(16), keyid, ids, Clock().unix(), asked.reason)

    async def show(body: bytes, evidence: Evidence) -> list[str]:
        payload = decode(RevokePayload, body, what="revoke", limit=ORDER_BYTES_MAX)
        kept = await evidence.lines(payload.survivors, "keeps") or ["  keeps none"]
        return [f"ends every order of key {payload.keyid}", *kept, _why(payload.reason)]

    _together("revoke", make, show, asked, gathering)


def ban_machine(asked: OrderRequest, gathering: SigningSession) -> None:
    """Make or complete the ban of the machine `asked.what`; raises as `cosign`."""

    async def make(_: PeerClient, __: Evidence) -> object:
        [peer] = asked.what
        if PEER_ID.fullmatch(peer) is None:
            raise Malformed("machine", wanted="its id of 32 hex digits", got=repr(peer[:80]))
        return BanPayload(1, os.urandom(16), peer, Clock().unix(), asked.reason)

    async def show(body: bytes, _: Evidence) -> list[str]:
        payload = decode(BanPayload, body, what="ban", limit=ORDER_BYTES_MAX)
        return [f"refuses machine {payload.peer} everywhere", _why(payload.reason)]

    _together("ban", make, show, asked, gathering)


def pass_release(asked: OrderRequest, gathering: SigningSession) -> None:
    """Make or complete the pass of the release `asked.what`; raises as `cosign`.

    What the release's content is, is read from the origin's signed metadata.
    """

    async def make(client: PeerClient, _: Evidence) -> object:
        scope = parse_scope(asked.what[0])
        if scope.kind is not ScopeKind.RELEASE:
            raise Malformed("release", wanted="PRODUCT==VERSION", got=repr(asked.what[0][:80]))
        key = open_key(gathering.keys[0], gathering.passphrase_file)
        origin = Origin(client, origin_of(key))
        async with verified(origin, FleetId(key.fleet)) as catalogue:
            found = [
                entry
                for entry in catalogue.releases
                if (entry.product, entry.version) == (scope.name, scope.version)
            ]
        if not found:
            raise Unavailable(scope.text, why="signed metadata has no such release")
        return PassPayload(1, os.urandom(16), found[0].content, Clock().unix(), asked.reason)

    async def show(body: bytes, evidence: Evidence) -> list[str]:
        payload = decode(PassPayload, body, what="pass", limit=ORDER_BYTES_MAX)
        line = f"lets content {payload.content.hex()} pass halts of everything; it is"
        return [line, *await evidence.releases(payload.content), _why(payload.reason)]

    _together("pass", make, show, asked, gathering)


def _together(
    kind: str, make: Make, show: Show, asked: OrderRequest, gathering: SigningSession
) -> None:
    if gathering.combine and (asked.what or asked.reason):
        wanted = "parts that say what and why, or that and --reason"
        raise Malformed("--combine", wanted=wanted, got="both")
    if not gathering.combine and not asked.what:
        raise Malformed(kind, wanted="what it is about", got="nothing")
    draft = Draft(kind, make, show)
    cosign(draft, gathering, to=[*asked.to], wait_s=asked.wait_s)


def _why(reason: str) -> str:
    return f"  because: {plain(reason) or 'no reason given'}"


async def _orders(
    evidence: Evidence, texts: tuple[str, ...], kinds: frozenset[str]
) -> tuple[bytes, ...]:
    """The ids that `texts` begin, by the signed records of a peer where they are not whole."""
    wrong = next((text for text in texts if _ID.fullmatch(text) is None), None)
    if wrong is not None:
        raise Malformed("halt id", wanted="up to 64 hex digits", got=repr(wrong[:80]))
    is_short = any(len(text) != _WHOLE for text in texts)
    known = await evidence.ids(kinds) if is_short else []
    return tuple(bytes.fromhex(_whole(text, known)) for text in texts)


def _whole(text: str, known: list[str]) -> str:
    if len(text) == _WHOLE:
        return text
    found = [each for each in known if each.startswith(text)]
    if len(found) != 1:
        raise Malformed(
            "halt id", wanted="the beginning of exactly one", got=f"{text}: {len(found)}"
        )
    return found[0]
