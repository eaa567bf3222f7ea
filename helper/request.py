"""One request of the agent, from a socket: who asks is told by the kernel, not by the words."""

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from helper.configuration import Refusal

REQUEST_BYTES_MAX = 8192

# Within this an agent has sent its line.
_SEND_S = 2.0

_WORDS_MAX = 64
_VERBS = ("check",)


@dataclass(frozen=True, slots=True)
class Request:
    """`verb` for `product`. `argv`: the program of a check, the one free text that is taken."""

    verb: str
    product: str
    argv: tuple[str, ...]


def caller_of(connection: socket.socket) -> int:
    """The user id of whoever has opened the connection."""
    size = struct.calcsize("3i")
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", said)[1])


def read_request(connection: socket.socket) -> Request:
    """The one line that was sent.

    Raises:
        Refusal: it is too long, too late, no JSON, or asks for what there is not.
    """
    connection.settimeout(_SEND_S)
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) <= REQUEST_BYTES_MAX:
            part = connection.recv(REQUEST_BYTES_MAX)
            if not part:
                break
            line += part
    except OSError as error:
        raise Refusal(f"request: {error}") from error
    if len(line) > REQUEST_BYTES_MAX or not line.endswith(b"\n"):
        raise Refusal(f"request: wanted one line of at most {REQUEST_BYTES_MAX} bytes")
    try:
        said: Any = json.loads(line)
    # Deep brackets make json raise RecursionError.
    except (ValueError, RecursionError) as error:
        raise Refusal(f"request: wanted JSON: {error}") from error
    if not isinstance(said, dict) or set(said) != {"verb", "product", "argv"}:
        raise Refusal("request: wanted verb, product and argv")
    verb, product, argv = said["verb"], said["product"], said["argv"]
    if verb not in _VERBS or not isinstance(product, str):
        raise Refusal(f"request: wanted one of {', '.join(_VERBS)} and a product")
    if not isinstance(argv, list) or not 1 <= len(argv) <= _WORDS_MAX:
        raise Refusal(f"argv: wanted 1 to {_WORDS_MAX} words")
    if not all(isinstance(word, str) and "\0" not in word and _is_text(word) for word in argv):
        raise Refusal("argv: wanted words of text")
    return Request(verb, product, tuple(argv))


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
