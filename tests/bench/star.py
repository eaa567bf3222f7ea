"""The floor: a bare star over mTLS, with nothing that a halt needs beyond being signed and durable.

One server sends one signed record of 250 bytes to every client; a client verifies it once, appends
it to a file with fdatasync, and answers one receipt of 100 bytes. No node, no gossip, no set.
"""

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey, VerifyKey

from firedoor.cli.demo.local_fleet import free_port
from firedoor.identity import Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import client_context, credentials_of, role_name, server_context
from firedoor.runtime.program.startup import run_loop
from firedoor.runtime.settings import split_address
from tests.bench.distribution import row_of, row_of_rounds, since
from tests.bench.loss import Place, begin_loss, end_loss
from tests.bench.mailbox import Mailbox, Voice

RECORD_BYTES = 250
RECEIPT_BYTES = 100
SIGNATURE_BYTES = 64
STEP_S = 60.0

# Clients that shake hands at one time; more would only fill the listener's queue.
JOINING_MAX = 32

Order = dict[str, Any]


def run_server(order: Order) -> None:
    """Serve; a datagram at `order["control"]` fires the round whose number it carries."""
    run_loop(_serve(order))


async def _serve(order: Order) -> None:
    voice, key = Voice(Path(order["mailbox"]), 0), SigningKey(bytes.fromhex(order["seed"]))
    writers: list[asyncio.StreamWriter] = []

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while await reader.readexactly(RECEIPT_BYTES):
                pass
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    context = server_context(credentials_of(read_key_file(Path(order["identity"]), str)))
    host, port = split_address(order["address"])
    server = await asyncio.start_server(receive, host, port, ssl=context, backlog=1024)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        control.bind(order["control"])
        control.settimeout(0)
        voice.tell("star-up")
        async with server:
            while True:
                number = await asyncio.get_running_loop().sock_recv(control, 64)
                body = number.ljust(RECORD_BYTES - SIGNATURE_BYTES, b"\0")
                record = bytes(key.sign(body))
                begin = Clock().now()
                for writer in writers:
                    writer.write(record)
                voice.tell("star-signed", number.decode(), begin)


def run_client(order: Order) -> None:
    """Take records until the server ends."""
    voice, key = (
        Voice(Path(order["mailbox"]), order["index"]),
        VerifyKey(bytes.fromhex(order["key"])),
    )
    context = client_context(credentials_of(read_key_file(Path(order["identity"]), str)))
    clock, file = Clock(), os.open(order["file"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    raw = socket.create_connection(split_address(order["address"]), timeout=STEP_S)
    with context.wrap_socket(raw, server_hostname=role_name(Role.MIRROR)) as line:
        line.settimeout(None)
        voice.tell("star-ready")
        while record := _read_record(line):
            body = key.verify(record)
            os.write(file, record)
            os.fdatasync(file)
            durable_at = clock.now()
            line.sendall(bytes(RECEIPT_BYTES))
            voice.tell("star", body.rstrip(b"\0").decode(), durable_at)


def _read_record(line: ssl.SSLSocket) -> bytes:
    record = b""
    while len(record) < RECORD_BYTES:
        part = line.recv(RECORD_BYTES - len(record))
        if not part:
            return b""
        record += part
    return record


def measure(
    fork: Any,
    mailbox: Mailbox,
    folder: Path,
    *,
    place: Place,
    identities: list[Path],
    rounds: int,
) -> dict[str, Any]:
    """A cold and `rounds` warm records; `identities` are the server's and then its clients'."""
    seed, control = os.urandom(32), folder / "star.control"
    where = {"mailbox": str(mailbox.path), "address": f"127.0.0.1:{free_port()}"}
    fork.fork(
        "star-server",
        0,
        **where,
        identity=str(identities[0]),
        seed=seed.hex(),
        control=str(control),
    )
    if not mailbox.wait("star-up", "-", 1, STEP_S):
        raise SystemExit("the star's server did not start")
    public = bytes(SigningKey(seed).verify_key).hex()
    clients = identities[1:]
    for index, identity in enumerate(clients):
        own = {"identity": str(identity), "key": public, "file": str(identity.with_suffix(".star"))}
        fork.fork("star-client", index, **where, **own)
        mailbox.wait("star-ready", "-", index - JOINING_MAX, STEP_S)
    if len(mailbox.wait("star-ready", "-", len(clients), STEP_S)) < len(clients):
        raise SystemExit("not every client of the star has connected")
    begin_loss(place)
    rows = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for number in map(str, range(rounds + 1)):
            sender.sendto(number.encode(), str(control))
            times = mailbox.wait("star", number, len(clients), STEP_S)
            (begin,) = mailbox.wait("star-signed", number, 1, STEP_S)[0]
            rows.append(row_of(since(begin, times)))
    end_loss(place)
    fork.end_all()
    return {"ms": row_of_rounds(rows[1:]), "cold_ms": rows[0]}
