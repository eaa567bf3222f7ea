"""What a core asks its host to do. Data, in order; nothing in a core acts.

A host finishes a `Keep` before it reports that order as recorded; everything else may run at once.
Hosts dispatch with `match` and `assert_never`.
"""

from dataclasses import dataclass

from firedoor.identity import PeerId


@dataclass(frozen=True, slots=True)
class Send:
    """Put one message (a record of wire/messages.py) on the standing connection to `peer`."""

    peer: PeerId
    message: object


@dataclass(frozen=True, slots=True)
class Keep:
    """Record one order durably, then call `Node.recorded`."""

    order: bytes
    record: bytes


@dataclass(frozen=True, slots=True)
class KeepBeacon:
    """Record what a beacon names durably."""

    record: bytes


@dataclass(frozen=True, slots=True)
class KeepForgotten:
    """Record durably that a compaction has left this order out."""

    order: bytes


@dataclass(frozen=True, slots=True)
class KeepVouched:
    """At a witness: record durably that it signs for these orders; before its signatures leave."""

    orders: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class KeepDecision:
    """Record durably what a halt reaches here (halt/reach.py), with the order or after it."""

    record: bytes


@dataclass(frozen=True, slots=True)
class KeepKnown:
    """Record durably that a release exists which a halt names (halt/reach.py)."""

    record: bytes


@dataclass(frozen=True, slots=True)
class DrawNonce:
    """Draw 32 bytes from the operating system and hand them to `Node.ask_lease`."""


@dataclass(frozen=True, slots=True)
class SignLease:
    """At the origin: sign the state of its order set over these nonces, for `Node.answer`."""

    nonces: bytes


@dataclass(frozen=True, slots=True)
class AddSignature:
    """At a witness: sign this record of the origin too, and send it back to `peer`."""

    peer: PeerId
    record: bytes


@dataclass(frozen=True, slots=True)
class KeepActed:
    """Record durably that this resume has begun to act."""

    order: bytes


@dataclass(frozen=True, slots=True)
class Cut:
    """The brake has changed: reset every transfer and abort every step that it now denies."""

    order: bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask `peer` for the pieces `first` up to but without `last` of a release's piece map."""

    number: int
    peer: PeerId
    manifest: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up the fetch with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection to a peer; it may come back, and then syncs anew."""

    peer: PeerId
    why: str


@dataclass(frozen=True, slots=True)
class Complete:
    """Every piece of this release is here."""

    manifest: str


@dataclass(frozen=True, slots=True)
class Tell:
    """A change of state that a person or a test may want to know."""

    event: str
    facts: tuple[tuple[str, str | int | float], ...] = ()


Effect = (
    Send
    | Keep
    | KeepBeacon
    | KeepActed
    | KeepForgotten
    | KeepDecision
    | KeepKnown
    | KeepVouched
    | DrawNonce
    | SignLease
    | AddSignature
    | Cut
    | Fetch
    | Cancel
    | Drop
    | Complete
    | Tell
)
