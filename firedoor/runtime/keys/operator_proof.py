"""The proof that a request comes from an operator: signed by the key file's signing half.

Every key file of a fleet carries a certificate of role operator, so that its owner can hand orders
over and read status; that alone mints no token and turns no key. For those a request is signed too,
and the origin knows by a file of its own (`operators.json`, which `firedoor init` writes and
`firedoor keys operators` on the origin's disk changes) whose signatures count.

Handing in an order never needs this.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from firedoor.errors import Malformed, Untrusted
from firedoor.identity import FleetId, PeerId
from firedoor.runtime.files import durable_write
from firedoor.runtime.folders import read_regular
from firedoor.trust.signing import sign, signed_bytes
from firedoor.units import UnixTime
from firedoor.wire.codec import pack
from firedoor.wire.json_text import json_map

HEADER = "Firedoor-Proof"

FILE = "operators.json"
"""In the origin's folder: the public keys, in hex, of those who may make tokens and turn keys."""

_FILE_BYTES_MAX = 1 << 16
_OPERATORS_MAX = 64

# A request is good for so long, either way: laptops' clocks differ, and nobody replays it who has
# not the certificate's key as well.
SPAN_S = 300


@dataclass(frozen=True, slots=True)
class Request:
    """What is signed: where a request of `asker` goes, when it was made, and its body."""

    path: str
    asker: PeerId
    made_at: UnixTime
    body: bytes

    def message(self, fleet: FleetId) -> bytes:
        """The bytes under the signature."""
        said = [self.path, self.asker, self.made_at, sha256(self.body).digest()]
        return signed_bytes(fleet, "request", pack(said))


def proof_of(request: Request, fleet: FleetId, seed: bytes) -> str:
    """The header's value, by the signing seed of a key file."""
    return f"{request.made_at}:{sign(seed, request.message(fleet)).hex()}"


def check_proof(
    header: str, request: Request, operators: tuple[str, ...], fleet: FleetId, now: UnixTime
) -> None:
    """Nothing, if one of `operators` (public keys in hex) has signed the request just now.

    `request.made_at` is taken from the header.

    Raises:
        Untrusted: no such signature, or one of another time.
    """
    made_at, _, signature = header.partition(":")
    wanted = "a request that is signed by an operator's key file"
    try:
        request = Request(request.path, request.asker, UnixTime(int(made_at[:20])), request.body)
        value = bytes.fromhex(signature)
    except ValueError as error:
        raise Untrusted(request.path, wanted=wanted, got="one without") from error
    if abs(now - request.made_at) > SPAN_S:
        got = f"one that was made {abs(now - request.made_at)} s away; set the clock"
        raise Untrusted(request.path, wanted="a request of this moment", got=got)
    if not any(_is_right(public, request.message(fleet), value) for public in operators):
        raise Untrusted(request.path, wanted=wanted, got="another key's signature")


def read_operators(folder: Path) -> tuple[str, ...] | None:
    """Whose signatures count at the origin in `folder`; None: a fleet of 0.1 has no such file.

    Raises:
        Malformed, Unavailable: the file is damaged or cannot be read.
    """
    try:
        data = read_regular(folder / FILE, _FILE_BYTES_MAX)
    except FileNotFoundError:
        return None
    publics = json_map(data, str(folder / FILE)).get("keys")
    if not isinstance(publics, list) or not all(isinstance(each, str) for each in publics):
        raise Malformed(str(folder / FILE), wanted="a list of public keys", got="something else")
    return tuple(publics[:_OPERATORS_MAX])


def write_operators(folder: Path, publics: tuple[str, ...]) -> None:
    """Let these keys' signatures count from now on, and no others."""
    durable_write(folder / FILE, json.dumps({"keys": [*publics]}, indent=1).encode())


def _is_right(public: str, message: bytes, value: bytes) -> bool:
    try:
        VerifyKey(bytes.fromhex(public)).verify(message, value)
    # PyNaCl's own TypeError and ValueError, for wrong sizes, are also Python's.
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True
