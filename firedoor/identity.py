"""Who a peer is: what its certificate says, and nothing that it says itself."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import NewType

from firedoor.errors import Malformed

PeerId = NewType("PeerId", str)
"""The first 32 hex digits of the SHA-256 of a peer's public key."""

FleetId = NewType("FleetId", str)
"""The first 32 hex digits of the SHA-256 of a fleet's first root.json."""

# A product, version, site or publisher becomes a folder, a URL part and a line on a screen: so no
# separator, no blank, no leading dot or dash, and short.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}")


# What a PeerId looks like; whoever reads one from the network checks it.
PEER_ID = re.compile(r"[0-9a-f]{32}")


class Role(Enum):
    """What a certificate lets its holder be."""

    MIRROR = "mirror"
    AGENT = "agent"
    OPERATOR = "operator"


RING_DEFAULT = "broad"
"""The ring of a machine whose token named none."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a machine belongs, by its certificate: a LAN, and a stage of rollouts."""

    site: str = ""
    ring: str = RING_DEFAULT


@dataclass(frozen=True, slots=True)
class Peer:
    """The facts of one certificate. `is_current`: its dates hold, by the judge's clock."""

    id: PeerId
    role: Role
    site: str
    is_current: bool = True
    ring: str = RING_DEFAULT


def checked_name(what: str, text: str) -> str:
    """`text`, if it may name a product, version, site, ring or publisher.

    Raises:
        Malformed: it has other characters, a leading dot or dash, or is longer than 64.
    """
    if NAME.fullmatch(text) is None:
        wanted = "1 to 64 of A-Z a-z 0-9 . _ + -, not starting with . + or -"
        raise Malformed(what, wanted=wanted, got=repr(text[:80]))
    return text
