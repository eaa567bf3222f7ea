"""Serf beside Firedoor: gossip of unsigned events in memory, LAN profile, no coalescing.

The event handler is what an operator would write: a shell that is started for each event. It says
so through a named pipe, stamped where it is read, for a shell has no clock of its own.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import msgpack

from firedoor.runtime.clocks import Clock
from tests.bench.distribution import row_of, row_of_rounds, since
from tests.bench.loss import Place, begin_loss, end_loss
from tests.bench.mailbox import Mailbox

STEP_S = 60.0

# About a signed order.
ORDER_BYTES = 250

# Agents that join at one time.
JOINING = 10

# Whom a new agent may ask to join by.
SEEDS = 10


def measure(mailbox: Mailbox, folder: Path, *, place: Place, counts: tuple[int, int]) -> Any:
    """Rounds of one event; None where Serf is not installed, or does not converge.

    `counts`: agents, and warm rounds after a cold one.
    """
    agents, rounds = counts
    program = shutil.which("serf")
    if program is None:
        print("serf: it is not installed", file=sys.stderr)
        return None
    log = (folder / "serf.log").open("wb")
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for index in range(agents):
            command = _command(program, mailbox.path, index)
            processes.append(_started(command, log))
            if index % JOINING == JOINING - 1 and not _sees(index + 1, 0):
                print(f"serf: agent {index} does not join", file=sys.stderr)
                return None
        if not all(_sees(agents, index) for index in range(0, agents, max(1, agents // 8))):
            print(f"serf: {agents} agents do not converge on this machine", file=sys.stderr)
            return None
        begin_loss(place)
        rows, reached = [], agents
        for number in map(str, range(rounds + 1)):
            times, begin = _fire(mailbox, number, agents)
            reached = min(reached, len(times))
            rows.append(row_of(since(begin, times)))
        return {"reached": reached, "ms": row_of_rounds(rows[1:])}
    finally:
        end_loss(place)
        # Leaving in order takes seconds an agent, and is not measured.
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait()
        log.close()


def _command(program: str, pipe: Path, index: int) -> list[str]:
    host = _host(index)
    words = [program, "agent", f"-node=n{index}", f"-bind={host}:7946", f"-rpc-addr={host}:7373"]
    handler = f"read round rest; echo serf {index} $round > {pipe}"
    words += ["-log-level=err", "-profile=lan", f"-event-handler=user:halt={handler}"]
    if index:
        seed = Random(index).randrange(min(index, SEEDS))
        words += [f"-retry-join={_host(seed)}:7946", "-retry-interval=1s"]
    return words


def _started(command: list[str], log: Any) -> subprocess.Popen[bytes]:
    # One thread of Go for each of a hundred agents on two cores: more would only switch.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=os.environ | {"GOMAXPROCS": "1"},
        start_new_session=True,
    )


def _fire(mailbox: Mailbox, number: str, agents: int) -> tuple[dict[int, tuple[float, ...]], float]:
    payload = f"{number} ".ljust(ORDER_BYTES - 1, "x") + "\n"
    event = {"Name": "halt", "Payload": payload.encode(), "Coalesce": False}
    with Rpc(0) as agent:
        begin = Clock().now()
        agent.ask("event", event, parts=1)
        return mailbox.wait("serf", number, agents, STEP_S), begin


class Rpc:
    """A connection to one agent's RPC port, shaken hands on while entered."""

    def __init__(self, index: int) -> None:
        self._line = socket.create_connection((_host(index), 7373), timeout=STEP_S)
        self._sequence = 0
        self._unpacker = msgpack.Unpacker()

    def __enter__(self) -> "Rpc":
        """Shake hands."""
        self.ask("handshake", {"Version": 1}, parts=1)
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._line.close()

    def ask(self, command: str, body: dict[str, Any] | None, *, parts: int) -> dict[str, Any]:
        """The last of the `parts` of the answer: a head, and a body where the command has one."""
        head = {"Command": command, "Seq": self._sequence}
        self._sequence += 1
        self._line.sendall(b"".join(map(msgpack.packb, [head] if body is None else [head, body])))
        answers: list[dict[str, Any]] = []
        while len(answers) < parts:
            data = self._line.recv(1 << 16)
            if not data:
                raise SystemExit("serf closed its RPC connection")
            self._unpacker.feed(data)
            answers += list(self._unpacker)
        return answers[-1]


def _sees(count: int, index: int) -> bool:
    """Whether an agent sees so many members, all alive, within STEP_S."""
    deadline = time.monotonic() + STEP_S
    while time.monotonic() < deadline:
        with suppress(OSError), Rpc(index) as agent:
            stats = agent.ask("stats", None, parts=2)
            if int(stats["serf"]["members"]) - int(stats["serf"]["failed"]) >= count:
                return True
        time.sleep(0.1)
    return False


def _host(index: int) -> str:
    return f"127.88.{index // 200}.{1 + index % 200}"
