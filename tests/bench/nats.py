"""NATS core beside Firedoor: one server, each subscriber a process; nothing signed or kept."""

import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from firedoor.cli.demo.local_fleet import free_port
from firedoor.runtime.clocks import Clock
from firedoor.runtime.settings import split_address
from tests.bench.distribution import row_of, row_of_rounds, since
from tests.bench.loss import Place, begin_loss, end_loss
from tests.bench.mailbox import Mailbox, Voice

STEP_S = 30.0

# About a signed order.
ORDER_BYTES = 250

_HELLO = b'CONNECT {"verbose":false,"pedantic":false,"tls_required":false}\r\n'


def run_subscriber(order: dict[str, Any]) -> None:
    """Subscribe to `halt`, and tell of each message, until the server ends."""
    voice, clock = Voice(Path(order["mailbox"]), order["index"]), Clock()
    with socket.create_connection(split_address(order["address"]), timeout=STEP_S) as line:
        line.settimeout(None)
        line.sendall(_HELLO + b"SUB halt 1\r\nPING\r\n")
        file = line.makefile("rb")
        while words := file.readline().split():
            match words[0]:
                case b"PONG":
                    voice.tell("nats-ready")
                case b"PING":
                    line.sendall(b"PONG\r\n")
                case b"MSG":
                    body = file.read(int(words[-1]) + 2)
                    voice.tell("nats", body.split()[0].decode(), clock.now())
                case b"INFO":
                    pass
                case _:
                    raise SystemExit(f"nats-server says {words!r}")


def measure(
    fork: Any, mailbox: Mailbox, folder: Path, *, place: Place, counts: tuple[int, int]
) -> Any:
    """Rounds of one message to each subscriber; None where there is no server installed.

    `counts`: subscribers, and warm rounds after a cold one.
    """
    agents, rounds = counts
    program = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
    if program is None:
        print("nats: nats-server is not installed", file=sys.stderr)
        return None
    port = free_port()
    with (folder / "nats.log").open("wb") as log:
        command = [program, "-a", place.listen, "-p", str(port)]
        # The harness alone hears Ctrl-C, and ends it below.
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        publisher = _connect(place.operator, port)
        address = f"127.0.0.1:{port}"
        for index in range(agents):
            fork.fork("nats", index, mailbox=str(mailbox.path), address=address)
        if len(mailbox.wait("nats-ready", "-", agents, STEP_S)) < agents:
            print("nats: not every subscriber has connected", file=sys.stderr)
            return None
        begin_loss(place)
        rows, reached = [], agents
        for number in map(str, range(rounds + 1)):
            body = number.encode().ljust(ORDER_BYTES)
            begin = Clock().now()
            publisher.sendall(b"PUB halt %d\r\n%s\r\n" % (len(body), body))
            times = mailbox.wait("nats", number, agents, STEP_S)
            reached = min(reached, len(times))
            rows.append(row_of(since(begin, times)))
        publisher.close()
        return {"reached": reached, "ms": row_of_rounds(rows[1:])}
    finally:
        end_loss(place)
        server.terminate()
        server.wait()
        fork.end_all()


def _connect(host: str, port: int) -> socket.socket:
    """A publisher; it answers no pings, for its rounds are over within two minutes."""
    deadline = time.monotonic() + STEP_S
    while time.monotonic() < deadline:
        with suppress(OSError):
            line = socket.create_connection((host, port), timeout=STEP_S)
            line.sendall(_HELLO)
            return line
        time.sleep(0.05)
    raise SystemExit("nats-server did not start")
