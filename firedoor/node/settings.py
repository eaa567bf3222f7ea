"""Who a node is: what its certificate and its settings say, for its whole life."""

from dataclasses import dataclass

from firedoor.halt.lease import STANDARD, LeaseTerms
from firedoor.identity import RING_DEFAULT, PeerId, Place, Role
from firedoor.limits import REQUESTS_MAX


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Who this node is.

    `port`: where it listens; `has_mirrors`: some are configured, for an endpoint or above a mirror;
    `requests_max`: in flight at once; `lease`: how old a lease may be; `beacon_key`: id of the
    beacon key of this mirror that is not the origin, empty for none.
    """

    me: PeerId
    role: Role
    site: str
    port: int
    is_origin: bool = False
    has_mirrors: bool = True
    requests_max: int = REQUESTS_MAX
    lease: LeaseTerms = STANDARD
    beacon_key: str = ""
    ring: str = RING_DEFAULT

    @property
    def is_fed_by_stick(self) -> bool:
        """Whether this is an air-gapped site's mirror, with nobody above it."""
        return self.role is Role.MIRROR and not (self.is_origin or self.has_mirrors)

    @property
    def place(self) -> Place:
        """Where this machine belongs."""
        return Place(self.site, self.ring)
