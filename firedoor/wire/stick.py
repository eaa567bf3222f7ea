"""What a stick carries between an air-gapped site's mirror and the rest of the fleet.

Out go the nonces of those who want leases, their requests for certificates and their receipts; home
come the origin's answers. Orders, metadata and pieces prove themselves and need no record here.
"""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from firedoor.limits import (
    ENROLMENT_BYTES_MAX,
    METADATA_BYTES_MAX,
    METADATA_FILES_MAX,
    PATH_STEPS_MAX,
    ROSTER_MAX,
)
from firedoor.units import KIB
from firedoor.wire.messages import Count, Digest, Id, Receipt, Record, Step, Text

# The endpoints of a site and its mirror.
CARRIED_MAX = ROSTER_MAX + 1

# Receipts of one site: of each endpoint for each of eight halts in force.
CARRIED_RECEIPTS_MAX = 8 * CARRIED_MAX

# For each of them a nonce, an id, receipts, and a certificate or a request for one.
STICK_BYTES_MAX = CARRIED_MAX * 12 * KIB

Pem = Annotated[bytes, Meta(max_length=ENROLMENT_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Question:
    """The open nonce of one peer."""

    peer: Id
    nonce: Digest


Questions = Annotated[tuple[Question, ...], Meta(max_length=CARRIED_MAX)]


@dataclass(frozen=True, slots=True)
class Answer:
    """A lease over `questions`: in this order their nonces' Merkle root is what was asked for.

    `path`: the steps from that root to the nonces of the lease in `record`.
    """

    record: Record
    path: Annotated[tuple[Step, ...], Meta(max_length=PATH_STEPS_MAX)]
    questions: Questions


@dataclass(frozen=True, slots=True)
class Outbound:
    """What a stick takes out of the site of `mirror`. `requests`: for certificates.

    `receipts`: what its endpoints say of halts.
    """

    mirror: Id
    questions: Questions
    requests: Annotated[tuple[Pem, ...], Meta(max_length=CARRIED_MAX)]
    receipts: Annotated[tuple[Receipt, ...], Meta(max_length=CARRIED_RECEIPTS_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Inbound:
    """What it brings home, as far as it has it."""

    answer: Answer | None
    certificates: Annotated[tuple[Pem, ...], Meta(max_length=CARRIED_MAX)]


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an `Inbound` came to. `is_leased`: the mirror itself, and `why` not.

    `told`: connected endpoints that were sent a lease; `certificates`: that were of use.
    """

    is_leased: bool
    why: Text
    told: Count
    certificates: Count


@dataclass(frozen=True, slots=True)
class MetadataFiles:
    """Signed metadata by the names that a mirror serves it under."""

    files: Annotated[
        dict[
            Annotated[str, Meta(max_length=200)],
            Annotated[bytes, Meta(max_length=METADATA_BYTES_MAX)],
        ],
        Meta(max_length=METADATA_FILES_MAX),
    ]
