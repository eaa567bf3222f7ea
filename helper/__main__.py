"""One request, one answer: started by firedoor-helper.socket for each connection, as root."""

import json
import os
import pwd
import socket
import subprocess
import sys
from contextlib import suppress

from helper.check import check, literal_words
from helper.configuration import Refusal, read_configuration
from helper.request import caller_of, read_request


def main() -> int:
    """Answer what stands on standard input, a socket; the exit code."""
    with socket.socket(fileno=os.dup(0)) as asker:
        try:
            answer = _answer(asker)
        except (Refusal, OSError, subprocess.SubprocessError) as error:
            answer = {"error": str(error)}
        # The agent may have closed the connection already.
        with suppress(OSError):
            asker.settimeout(2.0)
            asker.sendall(json.dumps(answer).encode() + b"\n")
    return 0


def _answer(asker: socket.socket) -> dict[str, object]:
    # Read first: a socket that is closed with unread bytes is reset, and the answer lost.
    request = read_request(asker)
    configuration = read_configuration()
    agent = _uid_of(configuration.agent_user)
    if caller_of(asker) != agent:
        raise Refusal(f"wanted {configuration.agent_user}, the agent's user")
    product = configuration.products.get(request.product)
    if product is None:
        raise Refusal(f"product {request.product[:64]!r} is not in helper.toml")
    if _uid_of(configuration.check_user) in {0, agent}:
        raise Refusal("check_user: wanted a user that is neither root nor the agent's")
    return check(configuration, product, literal_words(request.argv), asker)


def _uid_of(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise Refusal(f"this machine has no user {name}") from error


if __name__ == "__main__":
    sys.exit(main())
