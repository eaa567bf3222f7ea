"""How much a report about an endpoint is worth, by who brought it and what proves it.

* An endpoint that is connected here speaks for itself.
* What an endpoint has signed counts through whatever mirror it came: its certificate, by this
  fleet's CA, is in the report or was in an earlier one.
* Without a signature (agents of 0.1) a mirror's word counts for endpoints of its own site, and of
  another site only where nothing better was ever heard.
* The origin knows whom it enrolled; of others it takes what is signed, and nothing else.

It decides whether a claim may be kept and what it is worth; reports.py keeps it.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.runtime.keys.tls import Leaf, leaf_of
from firedoor.trust.report_signing import is_signed_by
from firedoor.units import UnixTime
from firedoor.wire.messages import Report


class Worth(IntEnum):
    """What stands behind a claim; the higher is never replaced by the lower while it is fresh."""

    HEARSAY = 0
    SITE = 1
    SIGNED = 2
    OWN = 3


class Roll(Protocol):
    """Whom the origin has enrolled."""

    def site_of(self, peer: PeerId) -> str | None:
        """The site of an endpoint; None: it was never enrolled."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One report as it is kept. `sender`: who brought it; `certificate`: in DER, if it came."""

    report: Report
    seen_at: UnixTime
    sender: PeerId
    worth: Worth
    certificate: bytes = b""


class Judge:
    """Reads reports for one mirror. `roll`: at the origin; None elsewhere."""

    def __init__(self, fleet: FleetId, ca: bytes, roll: Roll | None) -> None:
        self._fleet = fleet
        self._ca = ca
        self._roll = roll

    def claim(
        self, report: Report, sender: Peer, known: Claim | None, now: UnixTime
    ) -> Claim | None:
        """What `sender` says of an endpoint, with what it is worth; None: it may not say it."""
        seen_at = UnixTime(now - report.age_s)
        if sender.role is Role.AGENT:
            if report.id != sender.id:
                return None
            # What its certificate says stands above what it says of itself.
            own = replace(
                report, role=sender.role.value, site=sender.site, age_s=0, is_connected=True
            )
            return Claim(_bare(own), now, sender.id, Worth.OWN, report.certificate)
        if sender.role is not Role.MIRROR:
            return None
        leaf = self._leaf(report, known)
        site = self._roll.site_of(PeerId(report.id)) if self._roll is not None else None
        if leaf is not None and is_signed_by(report, leaf.public, self._fleet):
            shown = replace(_bare(report), role=Role.AGENT.value, site=site or leaf.peer.site)
            return Claim(shown, seen_at, sender.id, Worth.SIGNED, leaf.der)
        if self._roll is not None and site is None:
            return None
        at = report.site if site is None else site
        worth = Worth.SITE if at == sender.site else Worth.HEARSAY
        shown = replace(_bare(report), role=Role.AGENT.value, site=at)
        return Claim(shown, seen_at, sender.id, worth)

    def _leaf(self, report: Report, known: Claim | None) -> Leaf | None:
        """The endpoint's certificate, from the report or from what was kept; None: none is good."""
        if not report.signature:
            return None
        for der in (report.certificate, known.certificate if known is not None else b""):
            leaf = leaf_of(der, self._ca) if der else None
            if leaf is not None and leaf.peer.id == report.id and leaf.peer.role is Role.AGENT:
                return leaf
        return None


# So long a better claim keeps out a lesser one: an agent that was set back to 0.1, or whose clock
# was, is heard again after this.
BETTER_FOR_S = 3600


def replaces(claim: Claim, known: Claim | None, now: UnixTime) -> bool:
    """Whether `claim` takes the place of what is known of the same endpoint."""
    if known is None or now - known.seen_at > BETTER_FOR_S:
        return known is None or claim.worth >= min(known.worth, Worth.SITE)
    if claim.worth is Worth.OWN:
        return True
    if known.worth is Worth.OWN and known.report.is_connected:
        return False
    if claim.worth is Worth.SIGNED:
        if claim.report.said_at != known.report.said_at:
            return claim.report.said_at > known.report.said_at
        # The same words once more: who brought them says whether it is still connected there.
        return claim.sender == known.sender or claim.report.is_connected
    # An endpoint of 0.1 that was connected here, and is now through its site's mirror.
    is_unsigned = not known.report.signature
    return claim.worth >= (min(known.worth, Worth.SITE) if is_unsigned else known.worth)


def _bare(report: Report) -> Report:
    """The report without its certificate, which is kept beside it."""
    return replace(report, certificate=b"")
