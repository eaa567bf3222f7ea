"""What the routes of mirror and origin ask of a request: whose it is, and which piece it brings."""

from aiohttp import web

from firedoor.errors import Malformed, Untrusted
from firedoor.identity import Peer, Role
from firedoor.runtime.network.peer_server import CLOCK, peer_of_request


def asker(request: web.Request) -> Peer:
    """Who asks; raises as `peer_of_request`."""
    return peer_of_request(request, request.app[CLOCK])


def require(request: web.Request, role: Role) -> None:
    """Nothing, if the asker has this role and a certificate within its dates.

    Raises:
        Untrusted: it has not.
    """
    peer = asker(request)
    if peer.role is not role:
        raise Untrusted(request.path, wanted=f"role {role.value}", got=peer.role.value)
    if not peer.is_current:
        raise Untrusted(request.path, wanted="a certificate within its dates", got="an expired one")


def piece_of(request: web.Request) -> bytes:
    """The digest of the piece that is in the body.

    Raises:
        Malformed: there is none, or it is not hex.
    """
    try:
        return bytes.fromhex(request.headers["X-Piece"])
    except (KeyError, ValueError) as error:
        raise Malformed("X-Piece", wanted="a digest in hex", got="something else") from error
