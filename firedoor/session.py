"""One conversation as the node sees it: with whom, how far its orders are, what it asked for."""

from dataclasses import dataclass, field

from firedoor.halt.sync import OrderSync
from firedoor.identity import Peer


@dataclass(slots=True)
class Session:
    """One conversation. `is_upstream`: pieces and metadata come from there."""

    peer: Peer
    host: str
    is_upstream: bool
    sync: OrderSync
    port: int = 0
    interests: dict[str, None] = field(default_factory=dict)
